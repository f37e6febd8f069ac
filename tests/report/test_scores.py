"""Multi-label data on the page: mAP is called mAP, beside accuracies of other data or alone."""

import json
import re

import pytest
import synthetic_results as synthetic

from harness.report import answer_features, failures, page, transfer, unified
from harness.report.correctness import Correctness
from harness.report.figures import FIGURES
from harness.report.figures.figure import Absent, worded
from harness.report.tables import Tables, from_arrow, measure_of

ENDS = ("", "_low", "_high", "_n")


def ranked(row: dict) -> dict:
    """Returns a row of study 1 with its numbers as mAPs, of which there is no correctness."""
    moved = {
        f"{split}_mean_average_precision{end}": row.get(f"{split}_accuracy{end}")
        for split in ("validation", "test")
        for end in ENDS
    }
    gone = {f"{split}_accuracy{end}": None for split in ("validation", "test") for end in ENDS}
    return {**row, **gone, **moved}


def only(rows: dict, data: set[str] | None = None) -> dict:
    """Returns results whose data sets, or those named, have several labels an image."""
    chosen = {row["key"] for row in rows["features"] if data is None or row["data"] in data}
    return {
        **rows,
        "features": [ranked(row) if row["key"] in chosen else row for row in rows["features"]],
        "correctness": [row for row in rows.get("correctness", []) if row["key"] not in chosen],
    }


@pytest.fixture(scope="module")
def alone(study_one: dict) -> Tables:
    return from_arrow(synthetic.arrow(only(study_one)))


@pytest.fixture(scope="module")
def mixed(study_one: dict) -> tuple[Tables, str]:
    """Two data sets or more, one of which has several labels an image."""
    name = sorted({row["data"] for row in study_one["features"]})[0]
    return from_arrow(synthetic.arrow(only(study_one, {name}))), name


def drawn(tables: Tables, study: str) -> dict[str, list]:
    found = {}
    for name in FIGURES.names():
        figure = FIGURES.load(name)
        views = figure.views(tables) if figure.study == study else Absent("")
        if not isinstance(views, Absent):
            found[name] = views
    return found


def test_rows_have_the_score_that_was_measured(study_one: dict, alone: Tables) -> None:
    before = from_arrow(synthetic.arrow(study_one)).features.set_index("key")
    after = alone.features.set_index("key").loc[before.index]
    for split in ("validation", "test"):
        for end in ENDS:
            expected = before[f"{split}_accuracy{end}"].astype(float)
            assert after[f"{split}_score{end}"].astype(float).equals(expected)
            assert before[f"{split}_score{end}"].astype(float).equals(expected)
    assert (measure_of(before), measure_of(after)) == ("accuracy", "mAP")


@pytest.mark.slow
def test_the_page_never_calls_an_map_an_accuracy(alone: Tables) -> None:
    assert len(drawn(alone, "features")) >= 8
    html = page.page(alone, "experiment")
    drawings, answers = re.search(r'id="page-data">(.*?)</script>', html, re.S), html.split("<script")[0]
    assert drawings is not None
    shown = re.sub(r"<[^>]+>", " ", answers.split("Before you trust this")[0])
    assert "accuracy" not in shown.lower()
    assert "mAP on test (95" in shown
    assert "by validation mAP" in shown
    assert "no paired test, since an mAP is no mean over images: compare the intervals" in shown
    assert "mAP over block and timestep" in html
    figures = json.loads(drawings[1])["figures"]
    for name in drawn(alone, "features"):
        if name != "search_regret":
            assert "accuracy" not in json.dumps(figures[name]).lower().replace("published", ""), name


def test_published_accuracies_are_not_drawn_beside_maps(alone: Tables) -> None:
    for name, views in drawn(alone, "features").items():
        traces = [trace for view in views for trace in view.figure.to_plotly_json()["data"]]
        assert not any((trace.get("meta") or {}).get("published") for trace in traces), name


def test_the_answer_is_that_of_the_same_numbers(study_one: dict, alone: Tables) -> None:
    other = from_arrow(synthetic.arrow(study_one))
    for one, same in zip(
        answer_features.answers(alone, Correctness(alone.correctness)),
        answer_features.answers(other, Correctness(other.correctness)),
        strict=True,
    ):
        assert one.measure == "mAP"
        assert (one.best, one.effects) == (same.best, same.effects)
        assert [control.best for control in one.controls] == [control.best for control in same.controls]
        assert all(control.paired is None for control in one.controls)
    assert transfer.transfer(alone) == transfer.transfer(other)


def test_no_accuracy_is_missing_where_an_map_was_measured(alone: Tables) -> None:
    assert not [
        gap for gap in failures.missing(alone) if "accuracy" in gap.column and gap.table == "features"
    ]


@pytest.mark.slow
def test_data_of_both_kinds_are_told_apart(mixed: tuple[Tables, str]) -> None:
    tables, name = mixed
    measures = {
        answer.data: answer.measure
        for answer in answer_features.answers(tables, Correctness(tables.correctness))
    }
    assert measures[name] == "mAP"
    assert set(measures.values()) == {"mAP", "accuracy"}
    (first, *_) = drawn(tables, "features")["transfer_accuracy"]
    assert first.figure.layout["yaxis"]["title"]["text"] == "Test accuracy or mAP (%)"
    for view in drawn(tables, "features")["block_by_timestep"]:
        said = view.figure.to_plotly_json()["data"][0]["colorbar"]["title"]["text"]
        assert said == f"Validation<br>{measures[view.choice['data']]} (%)"
    assert {one.measure for one in unified.learners(tables)} <= {"mAP", "accuracy"}


def test_words() -> None:
    text = "{Measure} over block; the {measure} is on test"
    assert worded(text, "accuracy") == "Accuracy over block; the accuracy is on test"
    assert worded(text, "mAP") == "mAP over block; the mAP is on test"
    assert worded(text, "accuracy or mAP") == "Accuracy or mAP over block; the accuracy or mAP is on test"
