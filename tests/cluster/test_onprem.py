"""A sweep on three hosts that loses one of them, then the head, ends with the tables of one machine."""

import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from minihosts import Hosts, missing
from tables import assert_equal, recordings, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
FILE = "clusters/onprem.yaml"
HEAD, WORKERS = 1, (2, 3)
# The quickstart with less of everything: two noise levels, two K, shorter training.
SMALLER = (
    "features.timesteps=[0,150]",
    "features.train.steps=100",
    "weights.k=[10,20]",
    "weights.autoencoder.train.steps=150",
    "weights.diffusion.train.steps=150",
)
SWEEP = f"python -m harness.sweep quickstart {' '.join(f'--set {value}' for value in SMALLER)}"


@pytest.fixture(scope="module")
def hosts():
    # Every host is told where the packages are, as a shared disk would have them: installing takes minutes.
    venv = {"HARNESS_VENV": sys.prefix}
    one = {**venv, "RAY_OVERRIDE_RESOURCES": '{"CPU":1}'}
    with Hosts(
        3,
        share=[Path(sys.prefix), Path(sys.base_prefix)],
        environment={HEAD: venv, **dict.fromkeys(WORKERS, one)},
    ) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(laptop, hosts):
    values = {
        "SET-HEAD": hosts.address(HEAD),
        "SET-WORKER": hosts.address(WORKERS[0]),
        "SET-ANOTHER": hosts.address(WORKERS[1]),
        "SET-USER": "root",
        "SET-FOLDER": hosts.shared / "results",
        "~/.ssh/harness": hosts.key,
    }
    laptop.fill(FILE, values)
    for own in (".git/config", "results/own.txt"):  # stay at home
        (laptop.checkout / own).parent.mkdir(exist_ok=True)
        (laptop.checkout / own).touch()
    laptop.run(f"ray up -y {FILE}")
    wait_for_nodes(laptop, 3)
    return laptop


def on_head(command):
    """The command line that runs a command on the head."""
    return f"ray exec {FILE} '{command}'"


def wait_until(true, what, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(1)


def wait_for_nodes(laptop, count):
    found = f" {count} local.cluster.node"
    wait_until(lambda: found in laptop.run(on_head("ray status")), f"{count} nodes")


def processes(hosts, host):
    return hosts.run(host, "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'").stdout.splitlines()


def works(hosts, host):
    """Returns whether a host runs a stage or a trial."""
    ray = [line for line in processes(hosts, host) if line.startswith("ray::")]
    return any(not re.search("IDLE|Agent|_ProgressQueue", line) for line in ray)


@contextmanager
def submitted(laptop, log):
    """Sends a sweep to the head, which has it from then on: ours is only what shows its output.

    Gives a function that waits for something to be true while the sweep goes on.
    """
    watching = laptop.start(on_head(f"ray job submit -- {SWEEP}"), log)

    def meanwhile(true, what):
        wait_until(lambda: watching.poll() is not None or true(), what)
        assert watching.poll() is None, f"{what}: the sweep ended\n{log.read_text()}"

    try:
        yield meanwhile
    finally:
        os.killpg(watching.pid, signal.SIGKILL)
        watching.wait(timeout=30)


def test_hosts_hold_what_git_does_not_ignore_and_a_token_of_their_own(cluster, hosts):
    kept = {name for name in cluster.files if not name.startswith("results/")}
    for host in (HEAD, *WORKERS):
        found = hosts.run(host, "cd ~/harness && find . -type f -not -path '*/__pycache__/*'").stdout.split()
        assert {name.removeprefix("./") for name in found} == kept
        assert hosts.run(host, "stat -c %a ~/.ray/auth_token").stdout.strip() == "600"


def test_the_head_runs_nothing_for_strangers(cluster, hosts):
    ask = (
        "import requests, sys;"
        "print(requests.get(sys.argv[1], headers=dict([sys.argv[2:]]), timeout=9).status_code)"
    )
    token = (cluster.home / ".ray" / "auth_token").read_text()

    def answer(host, to, header, value):
        command = f"{sys.executable} -c '{ask}' http://{to}:8265/api/jobs/ {header} '{value}'"
        return hosts.run(host, command).stdout.strip()

    assert answer(HEAD, "127.0.0.1", "Accept", "*/*") == "401"
    assert answer(HEAD, "127.0.0.1", "Authorization", "Bearer wrong") == "403"
    assert answer(HEAD, "127.0.0.1", "Authorization", f"Bearer {token}") == "200"
    assert answer(WORKERS[0], hosts.address(HEAD), "Authorization", f"Bearer {token}") == ""  # nobody listens
    cluster.run(on_head("RAY_AUTH_MODE=disabled ray status"), fails=True)
    cluster.run(on_head("RAY_AUTH_TOKEN=wrong ray job list"), fails=True)


def test_the_tables_are_those_of_one_machine_though_two_hosts_are_lost(cluster, hosts, tmp_path):
    results = hosts.shared / "results"
    done = lambda: len(recordings(results)) if (results / "rows").exists() else 0  # noqa: E731
    with submitted(cluster, tmp_path / "first.log") as meanwhile:
        for host in WORKERS:
            meanwhile(lambda host=host: works(hosts, host), f"host {host} at work")
        meanwhile(lambda: any(results.glob("artifacts/*/*")), "something made")
        hosts.kill(WORKERS[1])
        meanwhile(lambda: done() > 5, "trials after a worker was lost")
        hosts.kill(HEAD)
        assert done() < 100  # of 130: the sweep was under way
    hosts.start(HEAD)
    hosts.start(WORKERS[1])
    cluster.run(f"ray up -y {FILE}")
    wait_for_nodes(cluster, 3)
    cluster.run(on_head(f"ray job submit -- {SWEEP}"), timeout=600)
    cluster.run(f"ray rsync-down {FILE} {results}/ results/")
    cluster.run(f"ray down -y {FILE}")
    alone = f"{SWEEP} --results {tmp_path}/alone --address local"
    cluster.run(alone, timeout=600, TMPDIR="/tmp", RAY_TMPDIR="/tmp")  # Ray's sockets want a short path
    found = rows(cluster.checkout / "results", "quickstart")
    assert_equal(found, rows(tmp_path / "alone", "quickstart"))
    assert set(recordings(results)) == {1}
    for host in WORKERS:  # `ray down` stops the head alone; the others notice
        ended = lambda host=host: not any("raylet" in line for line in processes(hosts, host))  # noqa: E731
        wait_until(ended, f"host {host} without Ray")
