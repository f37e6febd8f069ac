"""Stages and trials side by side: a trial waits for its own stages and no others, on both executors."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from disturbed import environment, sweeping

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DRIVER = str(Path(__file__).with_name("ordered_sweep.py"))


@contextmanager
def cluster_of(cpus):
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus, "include_dashboard": False, "dashboard_port": 0}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made.address
    finally:
        made.shutdown()


@pytest.fixture(scope="module", params=[None, 1, 2], ids=["debug", "one CPU", "two CPUs"])
def cpus(request):
    return request.param


@pytest.fixture(scope="module")
def place(cpus, tmp_path_factory):
    """The options that make a sweep run in one process, or on a cluster of its own."""
    if cpus is None:
        yield ()
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(tmp_path_factory.mktemp("cluster")).items():
            patch.setenv(name, value)
        with cluster_of(cpus) as address:
            yield ("--address", address)


def said(tmp_path, scenario, options):
    """Runs a scenario; returns the lines that it prints."""
    with sweeping(tmp_path, scenario, *options, driver=(DRIVER,)) as sweep:
        assert sweep.end() == 0, sweep.log
        return sweep.log.splitlines()


def test_a_trial_runs_before_a_stage_that_it_does_not_read(tmp_path, place, cpus):
    if cpus == 1:
        pytest.skip("the stage takes the only CPU while it waits")
    assert said(tmp_path, "apart", place) == ["ok early", "ok late"]


def test_a_failed_stage_fails_the_trials_that_need_it_and_no_others(tmp_path, place):
    assert sorted(said(tmp_path, "failing", place)) == [
        "ok reads another",
        "unable reads it RuntimeError: cannot be made",
        "unable reads what needs it RuntimeError: cannot be made",
    ]


def test_a_full_disk_ends_the_sweep_whatever_runs(tmp_path, place, cpus):
    if cpus == 1:
        pytest.skip("the trial takes the only CPU for ever")
    scenario = "full_alone" if cpus is None else "full"
    assert said(tmp_path, scenario, place)[-1] == "FullDisk"


def test_trainings_stages_and_trials_take_turns(tmp_path, place):
    assert sorted(said(tmp_path, "chain", place)) == [
        *(f"ok above {number}" for number in range(4)),
        *(f"ok early {number}" for number in range(4)),
    ]
