"""Results that a machine of the cluster does not see are found before work starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from disturbed import HEAD, environment, wait_for
from tiny import write_tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="gives a node a disk of its own, as root alone may"),
]


def test_the_path_and_the_machine_are_named(tmp_path, monkeypatch):
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    folder = tmp_path / "only-here"
    folder.mkdir()
    made = Cluster(initialize_head=True, head_node_args=HEAD)
    start = f"mount -t tmpfs none {folder} && exec {Path(sys.executable).parent}/ray start --block"
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{start} --address={made.address} --num-cpus=1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(alive(made.address)) == 2)
        command = [
            sys.executable,
            "-m",
            "harness.sweep",
            str(write_tiny(tmp_path)),
            "--address",
            made.address,
        ]
        done = subprocess.run(
            [*command, "--results", str(folder / "results")], capture_output=True, text=True, timeout=200
        )
    finally:
        node.terminate()
        node.wait(timeout=60)
        made.shutdown()
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"--results {folder / 'results'} is not the same folder on" in line
    assert "node " in line
    assert "a folder that all machines of the cluster share" in line
    assert not (folder / "results" / "artifacts").exists()


def alive(address):
    """Returns the nodes of a cluster, asked by a process of its own."""
    program = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=50);"
    program += "print(*(node['NodeID'] for node in ray.nodes() if node['Alive']))"
    done = subprocess.run(
        [sys.executable, "-c", program, address], capture_output=True, text=True, timeout=60
    )
    return done.stdout.split()
