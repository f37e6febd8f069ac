"""Ctrl-C and SIGTERM: a sweep stops, leaves nothing running, and the same command continues to the same tables."""

import re
import shutil

import pytest
from disturbed import KEPT, expected, sweeping, undisturbed, wait_for, write_small
from tables import assert_equal, recordings, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY, DEBUG = ("--address", "local"), ("--debug",)
HANGING = """
import sys, time
import ray
ray.shutdown = lambda *_, **__: time.sleep(600)
from harness.cli import main
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


@pytest.fixture
def small(tmp_path):
    return tmp_path, write_small(tmp_path)


def pause(folder, seconds):
    (folder / "notes").mkdir(exist_ok=True)
    (folder / "notes" / "pause").write_text(str(seconds))


def stop(sweep, signal, status):
    """Sends a signal and waits until nothing runs; returns how many trials were recorded before."""
    before = sweep.recorded()
    signal(sweep)
    assert sweep.end() == status, sweep.log
    assert KEPT in sweep.log
    assert "Traceback" not in sweep.log
    wait_for(lambda: not sweep.left_behind())
    return before


def in_stages(sweep):
    sweep.until(lambda: ": made in" in sweep.log)


def in_trials(sweep):
    sweep.until(lambda: sweep.recorded() > 2)


def interrupt(sweep):
    sweep.interrupt()


def terminate(sweep):
    sweep.terminate()


@pytest.mark.parametrize(
    ("mode", "steps"),
    [
        (RAY, [(in_stages, interrupt, 130), (in_trials, terminate, 143)]),
        (DEBUG, [(in_stages, terminate, 143), (in_trials, interrupt, 130)]),
    ],
    ids=["ray", "debug"],
)
def test_a_sweep_stopped_in_stages_and_trials_continues_to_equal_tables(small, mode, steps, tmp_path_factory):
    folder, experiment = small
    kept = 0
    for moment, signal, status in steps:
        pause(folder, 0.5 if moment is in_trials else 0)
        with sweeping(folder, experiment, *mode) as sweep:
            moment(sweep)
            kept += stop(sweep, signal, status)
            assert "report:" not in sweep.log
        if moment is in_trials:
            assert rows(sweep.results)["features"].status.eq("ok").sum() >= kept  # tables are written
    pause(folder, 0)
    with sweeping(folder, experiment, *mode) as sweep:
        assert sweep.end() == 0, sweep.log
    assert_equal(rows(sweep.results), expected(tmp_path_factory))
    assert set(recordings(sweep.results)) == {1}


def test_a_second_interrupt_ends_a_sweep_whose_clean_up_hangs_and_loses_nothing(small, tmp_path_factory):
    folder, experiment = small
    pause(folder, 0.5)
    shutil.copytree(undisturbed(tmp_path_factory) / "artifacts", folder / "results" / "artifacts")
    with sweeping(folder, experiment, *RAY, driver=("-c", HANGING)) as sweep:
        in_trials(sweep)
        before = sweep.recorded()
        sweep.interrupt()
        wait_for(lambda: "interrupt again to stop immediately" in sweep.log)
        assert sweep.running
        sweep.interrupt()
        assert sweep.end() == 130, sweep.log
    pause(folder, 0)
    with sweeping(folder, experiment, *DEBUG) as sweep:
        assert sweep.end() == 0, sweep.log
        assert int(re.search(r"(\d+) done, \d+ missing", sweep.log)[1]) >= before
    assert_equal(rows(sweep.results), expected(tmp_path_factory))
    assert set(recordings(sweep.results)) == {1}
