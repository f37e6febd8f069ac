"""The cluster that a sweep starts on this machine: on the loopback interface, with a token of its own."""

import os
import subprocess
from pathlib import Path

import pytest
from disturbed import sweeping, wait_for, write_small
from ray._private import ray_constants

from harness.core.errors import UserError
from harness.sweep.cluster import LONGEST_FOLDER, prepare_local


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """A home without a token, and no settings of Ray."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def token(tmp_path):
    return tmp_path / "home" / ".ray" / "auth_token"


def test_a_new_token_is_its_owner_s_alone(tmp_path):
    os.umask(0o022)
    prepare_local()
    assert token(tmp_path).stat().st_mode & 0o777 == 0o600
    assert len(token(tmp_path).read_text()) == 64
    assert not ray_constants.ENABLE_RAY_CLUSTER


def test_a_token_that_exists_is_kept(tmp_path):
    token(tmp_path).parent.mkdir(parents=True)
    token(tmp_path).write_text("mine")
    prepare_local()
    assert token(tmp_path).read_text() == "mine"


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x" * 64)])
def test_no_token_is_made_where_none_is_used(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    prepare_local()
    assert not token(tmp_path).exists()


def test_a_long_tmpdir_as_on_slurm_gives_way_to_tmp(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * LONGEST_FOLDER)))
    prepare_local()
    assert os.environ["RAY_TMPDIR"] == "/tmp"


def test_a_short_tmpdir_is_used(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    prepare_local()
    assert "RAY_TMPDIR" not in os.environ


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("/tmp/" + "x" * LONGEST_FOLDER, f"leave room for {LONGEST_FOLDER}; set a shorter one, such as /tmp"),
        ("/proc/nothing", "cannot be written: .*; set RAY_TMPDIR=/tmp"),
        ("/dev/null/x", "cannot be written: Not a directory"),
    ],
)
def test_a_ray_tmpdir_that_cannot_be_used_is_one_line(monkeypatch, folder, words):
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(UserError, match=words):
        prepare_local()


@pytest.mark.slow
def test_nothing_of_a_local_sweep_listens_beyond_this_machine(tmp_path):
    experiment = write_small(tmp_path)
    with sweeping(tmp_path, experiment, "--address", "local", RAY_AUTH_MODE="token") as sweep:
        sweep.until(lambda: ": made in" in sweep.log)
        pids = [f"pid={pid}," for pid in sweep.left_behind()]
        lines = subprocess.run(
            ["ss", "-Hltnp"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        places = [line.split()[3] for line in lines if any(pid in line for pid in pids)]
        assert len(places) > 5
        assert [place for place in places if "127.0.0.1" not in place] == []
        file = tmp_path / "home" / ".ray" / "auth_token"
        assert file.stat().st_mode & 0o077 == 0
        sweep.interrupt()
        sweep.end()
        wait_for(lambda: not sweep.left_behind())
