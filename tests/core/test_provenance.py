"""Provenance is an allow-list of columns; errors for people are one line."""

import subprocess
from pathlib import Path

import harness
from harness.core import provenance as module
from harness.core.errors import UserError
from harness.core.provenance import provenance
from harness.core.tables import COMMON


def test_every_fact_is_a_column_that_all_tables_have():
    assert set(provenance()) < {column.name for column in COMMON}


def test_nothing_of_the_environment_gets_in(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "do-not-keep-this")
    facts = provenance()
    assert "do-not-keep-this" not in str(facts)
    assert str(Path.home()) not in str(facts)


def test_every_run_has_a_name_of_its_own_that_a_file_can_have():
    names = {str(provenance()["run"]) for _ in range(5)}
    assert len(names) == 5
    assert all(name.replace("-", "").isalnum() for name in names)


def test_the_commit_is_gits():
    folder = Path(harness.__file__).parents[1]
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    expected = done.stdout.strip() if done.returncode == 0 and (folder / ".git").exists() else None
    assert provenance()["code_commit"] == expected


def test_code_outside_of_a_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    facts = provenance()
    assert facts["code_commit"] is None
    assert facts["code_dirty"] is None


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(module, "LIBRARIES", ("numpy", "no-such-library"))
    facts = provenance()
    assert facts["numpy_version"]
    assert facts["no_such_library_version"] is None


def test_an_error_for_people_is_one_line():
    assert str(UserError("first\n  second\tthird ")) == "first second third"
