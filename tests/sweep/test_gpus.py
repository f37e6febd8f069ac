"""GPUs that Ray believes in: none is given out twice, and machines that are still to come are asked for."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from disturbed import HEAD, MARK, environment, left_behind, sweeping, wait_for
from noted import notes
from noted_sweep import STAGES, TRIALS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DRIVER = str(Path(__file__).with_name("noted_sweep.py"))
GPUS = (2, 1)  # of the two machines


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=HEAD)
    for gpus in GPUS:
        made.add_node(num_cpus=2, num_gpus=gpus)
    yield made
    made.shutdown()


def test_no_gpu_is_given_out_twice_while_two_sweeps_share_a_cluster(cluster, tmp_path):
    (tmp_path / "notes" / "pause").write_text("0.3")
    with ExitStack() as stack:
        sweeps = [
            stack.enter_context(
                sweeping(
                    tmp_path, name, "--address", cluster.address, driver=(DRIVER,), results=tmp_path / name
                )
            )
            for name in ("one", "two")
        ]
        for sweep in sweeps:
            assert sweep.end() == 0, sweep.log
    told = notes(tmp_path / "notes")
    begun = Counter(note["what"] for note in told if note["event"] == "begin")
    assert begun == {"stage": 2 * STAGES, "trial": 2 * TRIALS}
    shares, most = Counter(), Counter()
    for note in told:
        assert len(note["gpus"]) == 1
        assert note["share"] == (0.75 if note["what"] == "stage" else 0.25)
        gpu = (note["node"], note["gpus"][0])
        shares[gpu] += note["share"] if note["event"] == "begin" else -note["share"]
        most[gpu] = max(most[gpu], shares[gpu])
    assert max(most.values()) <= 1
    assert len(most) <= sum(GPUS)
    assert not any(shares.values())
    assert len({node for node, _ in most}) == len(GPUS)


COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
NODES = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
}


@pytest.fixture
def autoscaling(tmp_path):
    """A cluster of a head without CPUs that starts machines when something waits for them; yields its address."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    config = {
        "cluster_name": "fake",
        "max_workers": 2,
        "provider": {
            "type": "external",  # for "fake_multinode" Ray lacks a file in the wheel
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "available_node_types": NODES,
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{name: [] for name in COMMANDS},
    }
    variables = {
        **environment(tmp_path),
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    place = tempfile.mkdtemp(prefix="ray")  # tmp_path is too long for the names of sockets
    bootstrap = tmp_path / "home" / "ray_bootstrap_config.yaml"  # where `ray up` leaves it
    bootstrap.write_text(yaml.safe_dump(config))
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--num-cpus=0",
        "--num-gpus=0",
    ]
    ray += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--autoscaling-config={bootstrap}"]
    ray += ["--include-dashboard=false", f"--temp-dir={place}"]
    mark = {MARK: uuid.uuid4().hex}
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(
            ray, env={**os.environ, **variables, **mark}, stdout=log, stderr=log, start_new_session=True
        )
    wait_for(lambda: answers(port) or head.poll() is not None)
    yield address
    assert head.poll() is None, (tmp_path / "ray.log").read_text()
    for pid in left_behind(head.pid, mark[MARK]):
        os.kill(pid, signal.SIGKILL)
    head.wait()
    wait_for(lambda: not left_behind(head.pid, mark[MARK]))
    shutil.rmtree(place)


def answers(port):
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_a_sweep_that_begins_without_machines_gets_those_with_gpus(autoscaling, tmp_path):
    options = ("--address", autoscaling)
    with sweeping(tmp_path, "one", *options, driver=(DRIVER,)) as sweep:
        assert sweep.end() == 0, sweep.log
    told = notes(tmp_path / "notes")
    assert {note["share"] for note in told if note["what"] == "stage"} == {0.75}
    assert {note["share"] for note in told if note["what"] == "trial"} == {0.25}
