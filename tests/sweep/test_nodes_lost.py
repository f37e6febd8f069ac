"""Machines that come and go in the middle of a sweep: nothing is lost, and those that join get work."""

import os
import random

import pytest
from disturbed import HEAD, environment, expected, sweeping, wait_for, write_small
from noted import notes
from tables import assert_equal, recordings, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
CHANGES = 20
MOST = 3  # workers at a time
SECONDS_WITHOUT_PROGRESS = 6  # then the next change comes all the same
SEED = int(os.environ.get("HARNESS_NODES_SEED", "0"))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head that runs no tasks; tests add workers, whose tasks note what they do in tmp_path / "notes"."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=HEAD)
    yield made
    made.shutdown()


def test_machines_that_come_and_go_twenty_times_leave_the_same_rows(cluster, tmp_path, tmp_path_factory):
    experiment = write_small(tmp_path)
    (tmp_path / "notes" / "pause").write_text("0.3")  # so that trials last as long as the changes
    draw = random.Random(SEED)
    workers = [cluster.add_node(num_cpus=1)]
    with sweeping(tmp_path, experiment, "--address", cluster.address) as sweep:
        for _ in range(CHANGES):
            moved_on(sweep, draw.randint(1, 2))
            change(cluster, workers, draw)
        if not workers:
            workers.append(cluster.add_node(num_cpus=1))
        status = sweep.end()
    assert status in (0, 1), sweep.log
    if status:  # a trial whose machine was lost every time it was tried
        with sweeping(tmp_path, experiment, "--address", cluster.address) as again:
            assert again.end() == 0, again.log
    assert_equal(rows(sweep.results), expected(tmp_path_factory))
    assert set(recordings(sweep.results)) == {1}


def moved_on(sweep, steps):
    """Waits until the sweep has made or recorded something more, or has had its chance."""
    before = progress(sweep)
    try:
        wait_for(lambda: progress(sweep) >= before + steps or not sweep.running, SECONDS_WITHOUT_PROGRESS)
    except AssertionError:
        return
    assert sweep.running, sweep.log  # else the experiment is too short for so many changes


def progress(sweep):
    return sweep.log.count(": made in") + sweep.recorded()


def change(cluster, workers, draw):
    if workers and (len(workers) == MOST or draw.random() < 0.5):
        node = workers.pop(draw.randrange(len(workers)))
        cluster.remove_node(node, allow_graceful=draw.random() < 0.5)
    else:
        workers.append(cluster.add_node(num_cpus=1, wait=False))


@pytest.mark.parametrize("search", [None, "{name: tpe, trials: 12}"], ids=["grid", "search"])
def test_a_machine_that_joins_late_gets_work(cluster, tmp_path, search):
    place = tmp_path / "notes"
    (place / "gate").touch()  # a trial that has begun ends when the second machine has one too
    options = ["--set", "weights=null", "--set", "features.timesteps=[0]", "--set", "features.train.steps=0"]
    options += ["--set", f"search={search}"] if search else []
    first = cluster.add_node(num_cpus=1)
    with sweeping(tmp_path, write_small(tmp_path), "--address", cluster.address, *options) as sweep:
        sweep.until(lambda: notes(place))
        second = cluster.add_node(num_cpus=1)
        sweep.until(lambda: {note["node"] for note in notes(place)} == {first.node_id, second.node_id})
        (place / "gate").unlink()
        assert sweep.end() == 0, sweep.log
    assert set(recordings(sweep.results)) == {1}
