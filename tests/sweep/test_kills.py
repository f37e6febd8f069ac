"""A sweep that is killed again and again ends with the rows of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tables import assert_equal, recordings, rows
from tiny import write_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
KILLS = 10
SEED = int(os.environ.get("HARNESS_KILL_SEED", "0"))


def start(experiment, results):
    command = [
        sys.executable,
        "-m",
        "harness.sweep",
        str(experiment),
        "--results",
        str(results),
        "--address",
        "local",
    ]
    with results.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=experiment.parent)


def finish(process):
    try:
        return process.wait(timeout=400)
    finally:
        process.kill()


def descendants(pid):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def ray_workers(pid):
    """Processes of a sweep that run tasks, trials and training; not Ray's own, with which a node would go."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ray::") and not any(
            name in title for name in ("IDLE", "Agent", "_ProgressQueue")
        ):
            found.append(child)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """An experiment and its tables after a sweep that nobody disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    experiment = write_tiny(folder)
    assert finish(start(experiment, folder / "results")) == 0
    return experiment, rows(folder / "results")


def test_a_driver_killed_ten_times_ends_with_the_same_rows(undisturbed, tmp_path):
    experiment, expected = undisturbed
    draw = random.Random(SEED)
    results = tmp_path / "results"
    for _ in range(KILLS):
        process = start(experiment, results)
        time.sleep(draw.uniform(3, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finish(start(experiment, results)) == 0
    assert_equal(rows(results), expected)
    assert set(recordings(results)) == {1}


def test_workers_killed_ten_times_leave_the_same_rows(undisturbed, tmp_path):
    experiment, expected = undisturbed
    draw = random.Random(SEED)
    results = tmp_path / "results"
    process = start(experiment, results)
    killed = 0
    while process.poll() is None and killed < KILLS:
        time.sleep(draw.uniform(0.5, 4))
        victims = ray_workers(process.pid)
        if victims:
            try:
                os.kill(draw.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
    assert finish(process) in (0, 1)
    assert killed >= KILLS // 2
    assert finish(start(experiment, results)) == 0
    assert_equal(rows(results), expected)
    assert set(recordings(results)) == {1}
