"""The doctor's facts of one machine."""

import json
import sys
import types

import pytest

from harness.sweep.doctor import machine


def test_the_token_is_found_in_rays_order_and_never_told(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    home = tmp_path / ".ray" / "auth_token"
    assert machine.token("salt") == {"on": True, "file": str(home), "digest": None}
    home.parent.mkdir()
    home.write_text("ours\n")
    home.chmod(0o640)
    first = machine.token("salt")
    assert (first["file"], first["mode"]) == (str(home), "0640")
    (tmp_path / "other").write_text("ours")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert machine.token("salt")["digest"] == first["digest"] != machine.token("pepper")["digest"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    given = machine.token("salt")
    assert (given["on"], given["file"]) == (False, None)
    assert given["digest"] != first["digest"]
    assert "theirs" not in json.dumps(given)


def test_versions_are_those_of_rows_without_the_build_of_torch(monkeypatch):
    monkeypatch.setattr(machine, "provenance", lambda: {"run": "r", "torch_version": "2.13.0+cpu"})
    told = machine.versions()
    assert told["torch"] == "2.13.0"
    assert set(told) == {"torch", "source"}


def test_one_part_that_fails_hides_none_of_the_others(monkeypatch):
    def fails():
        raise OSError("no\nsockets")

    monkeypatch.setattr(machine, "ports", fails)
    monkeypatch.setattr(machine, "gpu", lambda: {"devices": 0})
    facts = machine.examine("salt", [])
    assert facts["failures"] == ["ports: OSError: no sockets"]
    assert {"versions", "gpu", "token", "disks", "user"} <= set(facts)


@pytest.mark.parametrize(
    ("script", "sees", "why"),
    [
        ("echo a warning; echo 2 13.0", 2, ""),
        ("echo 0 13.0", 0, "torch for 13.0 sees none"),
        ("echo 0 None", 0, "torch is a CPU build"),
        ("echo one >&2; echo two >&2; exit 1", 0, "torch fails: two"),
    ],
)
def test_what_torch_sees_is_asked_in_a_process_of_its_own(script, sees, why, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    told = machine._torch_sees()
    assert told["torch_sees"] == sees
    assert why in told["why"]


def test_ports_of_the_dashboard_and_of_others_are_told_apart():
    dashboard = "python /x/dashboard/dashboard.py --host=0.0.0.0 --port=8265"
    commands = (dashboard, 8265, "dashboard"), (dashboard, 44227, "node"), ("raylet --port=1", 1, "node")
    for command, port, kind in commands:
        local = types.SimpleNamespace(ip="::ffff:10.0.0.4", port=port)
        assert machine._socket(command, local) == {"kind": kind, "address": "10.0.0.4", "port": port}


def test_the_disk_of_a_folder_that_is_not_there_is_its_parents(tmp_path):
    assert machine.disks([str(tmp_path / "none" / "here")])[0]["path"] == str(tmp_path)
