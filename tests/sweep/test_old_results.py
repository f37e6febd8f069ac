"""Results of an older schema version: every command refuses them with one true line and changes nothing.

`results_of_schema_1` was recorded by a sweep of the quickstart at schema version 1, cut to three rows.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import main
from harness.core.tables import SCHEMA_VERSION

RECORDED = Path(__file__).parent / "results_of_schema_1"


@pytest.fixture
def old(tmp_path):
    """A copy of the recorded folder."""
    return Path(shutil.copytree(RECORDED, tmp_path / "results"))


def contents(folder):
    """Returns the bytes of all files, and None for folders, by path."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "quickstart"],
        ["plan", "quickstart", "--json"],
        ["sweep", "quickstart"],
        ["sweep", "quickstart", "--debug"],
        ["report", "quickstart"],
        ["export", "quickstart", "--to", "exported"],
        ["export", "quickstart", "--networks", "2", "--to", "exported"],
        ["generate", "quickstart", "--networks", "2", "--to", "exported"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_them_in_one_line_and_changes_nothing(command, old, tmp_path, capsys):
    before = contents(tmp_path)
    command = [str(tmp_path / "exported") if word == "exported" else word for word in command]
    assert main([*command, "--results", str(old)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"harness: {old}")
    for words in (
        f"schema version 1, but this harness uses version {SCHEMA_VERSION}",
        "choose another --results",
        "nothing there is changed or deleted",
    ):
        assert words in output.err
    assert contents(tmp_path) == before


def test_a_journal_of_an_older_version_is_refused_too(old, capsys):
    """A sweep that was killed leaves one; the schema file may have been removed by hand."""
    (old / "rows" / "SCHEMA.json").unlink()
    run = json.loads((old / "rows" / "runs" / "000001.json").read_text())["run"]
    (old / "rows" / run / "tables.json").unlink()
    line = {"v": 1, "key": "a", "study": "features", "failed": False, "tables": {}}
    (old / "rows" / run / "000001.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["plan", "quickstart", "--results", str(old)]) == 2
    assert "000001.jsonl: written with schema version 1" in capsys.readouterr().err


def test_what_the_line_says_of_pandas_is_true(old):
    frame = pd.read_parquet(old / "quickstart" / "features.parquet")
    assert len(frame) == 3
    assert frame["validation_accuracy"].between(0, 1).all()
