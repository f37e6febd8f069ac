"""A study of another package plans, runs, lands in Parquet and appears on the page."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import roughness

from harness.core.tables import Role, Table
from harness.sweep import studies
from harness.testing.studies import StudyContract

ENTRY_POINTS = "[harness.plugins]\nstudy.roughness = roughness:STUDY\n"
EXPERIMENT = "data: {name: digits, max_train: 60}\nroughness: {blurs: [1, 2, 3], splits: [train, test]}\n"


class TestRoughness(StudyContract):
    where = "roughness:STUDY"
    section = {"blurs": [1, 2], "splits": ["test"]}
    refused = {"blurs": [2, 2]}

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        """Stands for the entry point that pip would install."""
        monkeypatch.setitem(studies.STUDIES._known, "roughness", self.where)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep where the package is installed: a module, and the metadata that pip would leave."""
    folder = tmp_path_factory.mktemp("elsewhere")
    site = folder / "site"
    (site / "roughness-1.0.dist-info").mkdir(parents=True)
    (site / "roughness.py").write_text(Path(roughness.__file__).read_text())
    (site / "roughness-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: roughness\nVersion: 1.0\n"
    )
    (site / "roughness-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "mine.yaml").write_text(EXPERIMENT)
    return folder, harness(folder, "sweep", "mine.yaml", "--debug", "--json")


def harness(folder, *arguments):
    """Runs a command there and returns what it prints."""
    path = [str(folder / "site"), *(entry for entry in sys.path if entry and "plugin" not in entry)]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_is_planned_and_run(swept):
    folder, printed = swept
    facts = json.loads(printed)
    assert (facts["trials"], facts["done_now"], facts["failed_now"]) == (6, 6, 0)
    again = json.loads(harness(folder, "plan", "mine.yaml", "--json"))
    assert (again["done"], again["missing"], again["by_study"]) == (6, 0, {"roughness": 6})


@pytest.mark.slow
def test_its_table_lands_in_parquet_with_its_meanings(swept):
    table = pq.read_table(swept[0] / "results" / "mine" / "roughness.parquet")
    declared = Table.of(table.schema)
    assert declared.names(Role.AXIS) == ["blur", "split"]
    assert [column.meaning for column in declared.columns] == [
        column.meaning for column in roughness.TABLE.columns
    ]
    assert table["gradient"].null_count == 0
    by_blur = dict(zip(table["blur"].to_pylist(), table["gradient"].to_pylist(), strict=True))
    assert by_blur[1] > by_blur[2] > by_blur[3]


@pytest.mark.slow
def test_it_appears_on_the_page(swept):
    page = (swept[0] / "results" / "mine" / "report.html").read_text()
    assert '<section id="roughness"' in page
    for text in ("Roughness of images", "Gradient", "Blur", "grey levels", "mean absolute difference"):
        assert text in page, text


@pytest.mark.slow
def test_the_page_is_written_where_the_study_is_not_installed(swept, tmp_path):
    """A colleague has the results alone: the tables say themselves what they hold."""
    from harness.core.storage import Storage
    from harness.report.page import write_report

    assert "roughness" not in studies.tables()
    write_report(Storage(str(swept[0] / "results")), "mine", studies.tables())
    assert '<section id="roughness"' in (swept[0] / "results" / "mine" / "report.html").read_text()


@pytest.mark.slow
def test_it_is_described(swept):
    text = harness(swept[0], "describe", "roughness")
    assert "How rough are the images" in text
    assert "| `gradient` | double | metric | grey levels |" in text
    assert "roughness at blurs 1, 2, 3 of 8 pixels" in harness(swept[0], "describe", "mine.yaml")
