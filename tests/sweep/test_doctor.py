"""How the doctor gathers facts: a process that is silent or ends, storage, a cluster of two nodes, the command."""

import io
import json
import os
import subprocess
import sys
from queue import Queue

import pytest

from harness.core.storage import Storage
from harness.sweep.doctor.gather import FACT, gather, hear


def heard(*lines):
    """What is made of lines of the process that tells facts, after which it is silent."""
    queue = Queue()
    for line in lines:
        queue.put(FACT + json.dumps(line) if isinstance(line, dict) else line)
    return hear(queue, 0)


def test_a_process_that_is_silent_or_turned_away_or_dies_is_told_of():
    disk = {"step": "the disk", "silent": 0}
    silent = heard({"driver": {}, **disk})
    assert (silent["stopped"], silent["driver"]) == ("the disk does not respond", {})
    assert heard(disk, None, "Fatal", None)["stopped"] == "the disk crashed the check: Fatal"
    refused = heard({"step": "the Ray cluster at h:1"}, "[W] Unauthenticated: InvalidAuthToken")
    assert refused["stopped"] == "the Ray cluster at h:1 rejects the token, or requires one"
    assert "RAY_AUTH_MODE=token" in refused["remedy"]
    assert "stopped" not in heard("chatter", {"step": None})


@pytest.mark.parametrize(
    ("script", "silent", "told"),
    [("sleep 600", 0.1, "Python does not respond"), ("echo no >&2", 60, "Python crashed the check: no")],
)
def test_a_process_that_hangs_or_ends_is_told_of(script, silent, told, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert gather("results", None, silent)["stopped"] == told


def test_storage_is_left_as_it_was(tmp_path):
    from harness.sweep.doctor.tell import exchange

    seen = exchange(Storage(str(tmp_path / "a" / "results")), [])
    assert (seen["error"], seen["nodes"]) == (None, [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").mkdir()
    exchange(Storage(str(tmp_path / "results")), [])
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


def test_a_node_sees_what_is_shared_and_says_what_is_not(tmp_path, monkeypatch):
    from harness.sweep.doctor import tell

    ours, theirs = Storage(str(tmp_path / "ours")), Storage(str(tmp_path / "theirs"))
    ours.write("probe/driver", b"text")
    shared = tell.exchange_on_node(ours, "probe", b"text")
    assert shared["error"] is None
    assert ours.read(shared["wrote"]) == b"text"
    assert (
        "on this node, a file written by the driver is missing"
        in tell.exchange_on_node(theirs, "probe", b"text")["error"]
    )
    assert not (tmp_path / "theirs").exists()
    assert "has different content" in tell.exchange_on_node(ours, "probe", b"other")["error"]

    def fails(*arguments):
        raise PermissionError("not\nyours")

    monkeypatch.setattr(Storage, "write", fails)
    assert (
        tell.exchange_on_node(ours, "probe", b"text")["error"]
        == "this node cannot write: PermissionError: not yours"
    )
    assert tell.exchange(ours, [])["error"] == "PermissionError: not yours"


def command(*options, cwd, home, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "harness", "doctor", *options],
        cwd=cwd,
        env={**kept, "HOME": str(home), "RAY_AUTH_MODE": "disabled", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_where_no_cluster_runs(tmp_path):
    done = command("--results", "r", cwd=tmp_path, home=tmp_path, RAY_TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "no Ray cluster is running here; checked only this machine" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_where_no_cluster_answers_looks_at_this_machine_and_starts_none(tmp_path):
    done = command("--results", "r", "--address", "127.0.0.1:9", cwd=tmp_path, home=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "no Ray cluster responds at 127.0.0.1:9" in done.stdout
    assert "can be written and read" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("this machine checked: 1 bad")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module", params=["disabled", "token"])
def cluster(request, tmp_path_factory):
    """The address of a cluster of two nodes, its home folder, and its mode of authentication."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (home / ".ray" / "auth_token").chmod(0o600)
    program = (
        "import sys\nfrom ray.cluster_utils import Cluster\n"
        "made = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})\n"
        "made.add_node(num_cpus=1)\nprint('address', made.address, flush=True)\nsys.stdin.read()\nmade.shutdown()\n"
    )
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": request.param}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes)
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("address "))
        yield address, home, request.param
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@pytest.mark.slow
def test_the_command_looks_at_all_nodes_of_a_cluster(cluster, tmp_path):
    address, home, mode = cluster
    options = ("--address", address, "--results", str(tmp_path / "results"), "--json")
    done = command(*options, cwd=tmp_path, home=home, RAY_AUTH_MODE=mode)
    told = json.load(io.StringIO(done.stdout))
    assert len(told["nodes"]) == 2
    assert not any(name in done.stdout for name in ("0123456789abcdef", "digest"))
    whats = {finding["what"]: finding for finding in told["findings"]}
    assert any("this machine and 2 nodes can read each other's files" in what for what in whats)
    bad = [what for what, finding in whats.items() if finding["level"] == "bad"]
    assert all("without token authentication" in what for what in bad), bad
    if mode == "token":
        assert (done.returncode, bad) == (0, [])
        assert any("the token protects" in what for what in whats)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_named_to_one_who_has_none(cluster, tmp_path):
    address, home, mode = cluster
    done = command("--address", address, "--results", "r", cwd=tmp_path, home=home)
    if mode == "token":
        assert done.returncode == 1
        assert "rejects the token, or requires one" in done.stdout
        assert "can be written and read" in done.stdout
    else:
        assert "rejects the token" not in done.stdout
    assert list(tmp_path.iterdir()) == []
