"""A clock that jumps by hours, as on machines whose time is set while they work."""

import re
import time

import pandas as pd
import pytest
from disturbed import expected, sweeping, write_small
from tables import assert_equal, recordings, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
JUMPING = """
import itertools, sys, time
true, hours = time.time, itertools.cycle([0, 5, -7, 30, -1])
time.time = lambda: true() + 3600 * next(hours)
from harness.cli import main
sys.exit(main(["sweep", *sys.argv[1:]]))
"""


def made(sweep):
    """Returns the stages that a sweep has made."""
    return set(re.findall(r"^(\S+ \S+): made in", sweep.log, re.MULTILINE))


def test_a_clock_that_jumps_changes_no_number_and_no_duration(tmp_path, tmp_path_factory):
    experiment = write_small(tmp_path)
    began = time.monotonic()
    with sweeping(tmp_path, experiment, "--debug", driver=("-c", JUMPING)) as sweep:
        sweep.until(lambda: sweep.recorded() > 2)
        sweep.interrupt()
        assert sweep.end() == 130, sweep.log
    before = made(sweep)
    with sweeping(tmp_path, experiment, "--debug", driver=("-c", JUMPING)) as sweep:
        assert sweep.end() == 0, sweep.log
    took = time.monotonic() - began
    assert before
    assert not before & made(sweep)  # all that was made before the clock jumped was found
    assert_equal(rows(sweep.results), expected(tmp_path_factory))
    seconds = pd.read_parquet(sweep.results / "tiny" / "features.parquet").seconds
    assert seconds.between(0, took).all()
    assert set(recordings(sweep.results)) == {1}
