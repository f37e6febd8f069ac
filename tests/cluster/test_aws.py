"""`ray up cluster.yaml` on an AWS of our own, up to the machines: none is there to be reached."""

import os
import signal
import socket
import sys
import time

import pytest
import yaml

pytestmark = pytest.mark.slow
REGION = "us-west-2"
VALUES = {"SET-REGION": REGION, "SET-BUCKET": "ours"}

# In place of ssh and rsync: they note what was asked of them, and keep what is sent to the head for its autoscaler.
NOTE = """#!/bin/sh
echo "$0 $@" >>"$HOME/asked"
for one; do case $one in */ray-bootstrap-*) cp "$one" "$HOME/sent" ;; esac; done
"""

# What the head's autoscaler does when trials wait, with the configuration that was sent to it.
START = """
import json, sys
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE
config = json.load(open(sys.argv[1]))
provider = _get_node_provider(config["provider"], config["cluster_name"])
for name in ("gpu_spot", "gpu_on_demand"):
    tags = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: name}
    provider.create_node(config["available_node_types"][name]["node_config"], tags, 1)
"""


@pytest.fixture(scope="module")
def aws(laptop):
    """The environment in which AWS is a server on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = laptop.start(
        f"exec {sys.executable} -m moto.server -H 127.0.0.1 -p {port}", laptop.home / "moto.log"
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "ours",
            "AWS_SECRET_ACCESS_KEY": "ours",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def client(aws):
    """Makes clients of a service, to look at what is there."""
    import boto3

    def make(service):
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=aws["AWS_ENDPOINT_URL"],
            aws_access_key_id="ours",
            aws_secret_access_key="ours",
        )

    return make


@pytest.fixture(scope="module")
def stack(client, laptop):
    """The roles, deployed as the file says. Returns its template."""
    body = (laptop.checkout / "clusters" / "aws-roles.yaml").read_text()
    client("cloudformation").create_stack(
        StackName="harness",
        TemplateBody=body,
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "ours"}],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    return body


@pytest.fixture(scope="module")
def launched(aws, client, stack, laptop):
    """The instances by node type, after `ray up` and after workers were asked for."""
    for tool in ("ssh", "rsync"):
        (laptop.tools / tool).write_text(NOTE)
        (laptop.tools / tool).chmod(0o755)
    laptop.fill("cluster.yaml", VALUES)
    laptop.run("ray up -y cluster.yaml", **aws)
    (laptop.home / "start.py").write_text(START)
    laptop.run(f"python {laptop.home}/start.py {laptop.home}/sent", **aws)
    machines = client("ec2").describe_instances()["Reservations"]
    by_type = {}
    for machine in (one for reservation in machines for one in reservation["Instances"]):
        tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
        by_type[tags["ray-user-node-type"]] = machine
    return by_type


def test_the_head_is_one_machine_on_demand_and_workers_come_on_spot(launched):
    kinds = {name: (one["InstanceType"], one.get("InstanceLifecycle")) for name, one in launched.items()}
    assert kinds == {
        "head": ("m7i.xlarge", None),
        "gpu_spot": ("g6.2xlarge", "spot"),
        "gpu_on_demand": ("g6.2xlarge", None),
    }


def test_every_machine_has_its_profile_image_key_and_disk(launched, client):
    for name, machine in launched.items():
        profile = "harness-head" if name == "head" else "harness-worker"
        assert machine["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
        assert machine["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/x86_64/")
        assert machine["KeyName"] == f"ray-autoscaler_{REGION}"
        (disk,) = machine["BlockDeviceMappings"]
        (volume,) = client("ec2").describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
        assert (volume["Size"], volume["VolumeType"]) == (120, "gp3")


def test_only_ssh_comes_in_from_outside(launched, client):
    groups = {group["GroupId"] for machine in launched.values() for group in machine["SecurityGroups"]}
    (group,) = client("ec2").describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert group["GroupName"] == "ray-harness"
    (outside,) = (rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"])
    assert (outside["IpProtocol"], outside["FromPort"], outside["ToPort"]) == ("tcp", 22, 22)
    others = [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert others == [group["GroupId"]]


def test_the_head_was_sent_the_checkout_and_the_token_and_started(launched, laptop):
    asked = (laptop.home / "asked").read_text()
    assert "--exclude .git --filter dir-merge,- .gitignore" in asked
    assert f"{laptop.home}/.ray/auth_token ubuntu@" in asked
    assert "~/harness/clusters/node.sh install s3://ours/results" in asked
    assert "~/harness/clusters/node.sh head" in asked


def test_the_head_may_start_workers_and_give_them_their_profile_alone(stack, client):
    iam = client("iam")
    roles = {}
    for name in ("harness-head", "harness-worker"):
        (role,) = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
        (policy,) = iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]
        assert policy["PolicyName"] == "harness-results"
        roles[name] = role["Arn"]
    assert not iam.list_role_policies(RoleName="harness-worker")["PolicyNames"]
    document = iam.get_role_policy(RoleName="harness-head", PolicyName="starts-workers")["PolicyDocument"]
    may = {str(rule["Action"]): rule["Resource"] for rule in yaml.safe_load(document)["Statement"]}
    assert may["iam:PassRole"] == roles["harness-worker"]


def test_the_template_has_no_aliases_which_cloudformation_refuses(stack):
    assert not [one for one in yaml.parse(stack) if isinstance(one, yaml.AliasEvent)]
