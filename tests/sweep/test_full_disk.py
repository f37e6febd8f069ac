"""Results on a disk that gets full: one clear line, and the same command continues once there is room."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from disturbed import expected, sweeping, undisturbed, write_small
from tables import assert_equal, recordings, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RAY, DEBUG = ("--address", "local"), ("--debug",)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own for results; skips where nobody may mount one."""
    place = tmp_path / "results"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no rights to mount a disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, left):
    """Leaves room for `left` bytes."""
    block = 4096
    room = shutil.disk_usage(disk).free // block - left // block
    (disk / "filler").write_bytes(bytes(room * block))


def ends_with_one_line(sweep):
    assert sweep.end() == 1, sweep.log
    [line] = [line for line in sweep.log.splitlines() if line.startswith("harness: ")]
    assert "No space left on device" in line
    assert "free some space and run the same command to resume" in line
    assert "Traceback" not in sweep.log
    assert "failed:" not in sweep.log


def continues(folder, experiment, mode, factory):
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder / "results")], check=True)
    with sweeping(folder, experiment, *mode) as sweep:
        assert sweep.end() == 0, sweep.log
    assert_equal(rows(sweep.results), expected(factory))
    assert set(recordings(sweep.results)) == {1}


@pytest.mark.parametrize("mode", [RAY, DEBUG], ids=["ray", "debug"])
def test_a_disk_that_is_full_while_trials_are_recorded(disk, tmp_path, tmp_path_factory, mode):
    experiment = write_small(tmp_path)
    shutil.copytree(undisturbed(tmp_path_factory) / "artifacts", disk / "artifacts")
    fill(disk, left=2**15)
    with sweeping(tmp_path, experiment, *mode) as sweep:
        ends_with_one_line(sweep)
    assert sum(path.read_bytes().count(b"\n") for path in Path(disk).glob("rows/*/*.jsonl"))
    continues(tmp_path, experiment, mode, tmp_path_factory)


@pytest.mark.parametrize("mode", [RAY, DEBUG], ids=["ray", "debug"])
def test_a_disk_that_is_full_while_a_stage_is_written(disk, tmp_path, tmp_path_factory, mode):
    experiment = write_small(tmp_path)
    for kind in ("dataset", "backbone"):
        shutil.copytree(undisturbed(tmp_path_factory) / "artifacts" / kind, disk / "artifacts" / kind)
    fill(disk, left=2**19)
    with sweeping(tmp_path, experiment, *mode) as sweep:
        ends_with_one_line(sweep)
    continues(tmp_path, experiment, DEBUG, tmp_path_factory)
