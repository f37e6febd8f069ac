"""Scratch folders: those of dead processes are removed, those of living ones and of others are left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core import leftovers
from harness.core.leftovers import scratch_folder

MAKE = "import sys; from pathlib import Path; from harness.core.leftovers import scratch_folder; "
MAKE += "print(scratch_folder(Path(sys.argv[1]), '.mine-'), flush=True); sys.stdin.read()"


@pytest.fixture
def other(tmp_path):
    """Another process that has made a scratch folder, and the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", MAKE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process, Path(process.stdout.readline().strip())


def test_one_process_never_makes_the_same_folder_twice(tmp_path):
    folders = {scratch_folder(tmp_path / "new", ".mine-") for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() for folder in folders)


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path, other):
    process, left = other
    scratch_folder(tmp_path, ".mine-")
    assert left.is_dir()
    process.kill()
    process.wait()
    scratch_folder(tmp_path, ".other-")
    assert left.is_dir()
    mine = scratch_folder(tmp_path, ".mine-")
    assert not left.exists()
    assert mine.is_dir()


def test_the_folder_of_another_machine_is_removed_after_days(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "machine", lambda: ["another"])
        left = scratch_folder(tmp_path, ".mine-")
    scratch_folder(tmp_path, ".mine-")
    assert left.is_dir()
    long_ago = left.stat().st_mtime - leftovers.ABANDONED_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    scratch_folder(tmp_path, ".mine-")
    assert not left.exists()


def test_folders_that_others_made_are_left_alone(tmp_path):
    for name in (".mine-", ".mine-a-b", ".mine-photos-of-my-cat", "mine-1-2-3-4"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    scratch_folder(tmp_path, ".mine-")
    assert len(list(tmp_path.iterdir())) == 5


def test_a_file_in_the_place_of_the_parent_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        scratch_folder(tmp_path / "file", ".mine-")
