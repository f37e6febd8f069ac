"""The files are what Ray's launcher accepts, start what pyproject.toml pins, and keep their doors shut."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LAUNCHED = ("cluster.yaml", "clusters/onprem.yaml")
YOURS = {
    "cluster.yaml": {"SET-REGION", "SET-BUCKET"},
    "clusters/onprem.yaml": {"SET-HEAD", "SET-WORKER", "SET-ANOTHER", "SET-USER", "SET-FOLDER"},
    "clusters/kuberay.yaml": {"SET-IMAGE", "SET-BUCKET"},
}


def load(file):
    return yaml.safe_load((ROOT / file).read_text())


@pytest.fixture(params=LAUNCHED)
def config(request):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(load(request.param))
    validate_config(prepared)
    return prepared


def test_every_machine_is_set_up_by_the_one_script(config):
    commands = [*config["head_setup_commands"], *config["worker_setup_commands"]]
    assert len(commands) == 2
    assert all(command.startswith("~/harness/clusters/node.sh install ") for command in commands)
    assert config["head_start_ray_commands"][0].endswith("~/harness/clusters/node.sh head")
    assert config["worker_start_ray_commands"] == ["~/harness/clusters/node.sh worker"]
    assert config["idle_timeout_minutes"] > 0


def test_nodes_get_the_checkout_without_what_git_ignores_and_one_token(config):
    assert config["file_mounts"] == {"~/harness": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    assert config["rsync_filter"] == [".gitignore"]
    assert config["rsync_exclude"] == [".git"]


@pytest.mark.parametrize("file", YOURS)
def test_what_is_yours_to_set_stands_at_the_top_and_can_be_listed(file):
    assert set(re.findall("SET-[A-Z]+", (ROOT / file).read_text())) == YOURS[file]


def test_on_aws_the_head_runs_no_trials_and_workers_start_from_none():
    types = load("cluster.yaml")["available_node_types"]
    assert types.pop("head")["resources"] == {"CPU": 0, "head": 1}
    assert all(kind["min_workers"] == 0 and kind["resources"]["GPU"] == 1 for kind in types.values())
    assert types["gpu_on_demand"]["max_workers"] == 1
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"].get("priority", 0)
    spot, other = types["gpu_spot"]["node_config"], types["gpu_on_demand"]["node_config"]
    assert spot == {**other, "InstanceMarketOptions": {"MarketType": "spot"}}


def test_on_kubernetes_the_head_runs_no_trials_and_workers_start_from_none():
    job = load("clusters/kuberay.yaml")
    assert (job["kind"], job["spec"]["entrypoint"]) == ("RayJob", "python -m harness.sweep")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == 1 < workers["maxReplicas"]
    groups = (cluster["headGroupSpec"], workers)
    head, worker = (group["template"]["spec"]["containers"][0] for group in groups)
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert head["image"] == worker["image"]
    assert head["env"] == worker["env"] == [{"name": "HARNESS_RESULTS", "value": "s3://SET-BUCKET/results"}]


def test_ray_is_the_pinned_one_everywhere():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pinned,) = (pin.partition("==")[2] for pin in pins if pin.startswith("ray["))
    assert load("clusters/kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    others = [path for path in (ROOT / "clusters").iterdir() if path.name != "kuberay.yaml"]
    assert not [path for path in others if re.search(r"ray\[|ray==|rayproject", path.read_text())]


def test_nothing_listens_to_the_world():
    files = [ROOT / "cluster.yaml", *(ROOT / "clusters").iterdir()]
    assert not [path.name for path in files if "0.0.0.0" in path.read_text()]
    script = (ROOT / "clusters" / "node.sh").read_text()
    assert "--dashboard-host=127.0.0.1" in script
    assert "export RAY_AUTH_MODE=token" in script


@pytest.fixture
def machine(laptop, tmp_path):
    """A machine with a token that everybody can read, and settings for its shells."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / ".bashrc").write_text("[ -z ${interactive:-} ] && return\n")
    return {"HOME": str(tmp_path), "PIP_NO_DEPS": "1"}  # the packages themselves would take minutes


def test_install_makes_an_environment_of_the_checkout_that_shells_find(laptop, machine, tmp_path):
    for _ in range(2):  # as a second `ray up` does
        laptop.run("clusters/node.sh install s3://bucket/results", **machine)
    shell = 'bash -c ". ~/.bashrc; which python; echo $RAY_AUTH_MODE $HARNESS_RESULTS"'.replace("$", "\\$")
    printed = laptop.run(shell, **machine).split()
    assert printed == [f"{tmp_path}/venv/bin/python", "token", "s3://bucket/results"]
    where = f"cd / && {tmp_path}/venv/bin/python -c 'import harness; print(harness.__file__)'"
    assert laptop.run(where, HOME=str(tmp_path), PYTHONPATH="") == f"{laptop.checkout}/harness/__init__.py\n"
    assert (tmp_path / ".bashrc").read_text().count("harness-env") == 1


def test_a_machine_starts_ray_with_a_token_that_it_alone_reads(laptop, machine, tmp_path):
    ray = laptop.tools / "ray"
    ray.write_text('#!/bin/sh\necho ray "$@" $RAY_AUTH_MODE in $PWD >>"$HOME/started"\n')
    ray.chmod(0o755)
    laptop.run("clusters/node.sh install", HARNESS_VENV=str(laptop.tools.parent / "none"), **machine)
    laptop.run("clusters/node.sh head", **machine)
    laptop.run("RAY_HEAD_IP=10.1.2.3 clusters/node.sh worker", **machine)
    ray.unlink()
    started = (tmp_path / "started").read_text()
    assert "ray start --head --port=6379 --dashboard-host=127.0.0.1 --num-cpus=0 --num-gpus=0" in started
    assert f"ray start --address=10.1.2.3:6379 token in {laptop.checkout}" in started
    assert os.stat(tmp_path / ".ray" / "auth_token").st_mode & 0o777 == 0o600


def test_values_that_are_not_set_are_named(laptop, machine):
    assert "s3://SET-BUCKET/results" in laptop.run(
        "clusters/node.sh install s3://SET-BUCKET/results", fails=True, **machine
    )


def test_the_script_is_a_shell_script():
    subprocess.run(["bash", "-n", ROOT / "clusters" / "node.sh"], check=True, timeout=10)
