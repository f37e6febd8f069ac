"""Any declared table appears on the page: a study that the page knows by its declaration alone."""

import re

import pyarrow as pa
import pytest
import synthetic_results as synthetic

from harness.core.registry import Registry
from harness.core.storage import Storage
from harness.core.tables import Column, Role, Table, estimate
from harness.report import page as page_module
from harness.report import result_table
from harness.report.figures.figure import Absent, Drawing, Figure, View
from harness.report.page import page, write_report
from harness.report.sections import sections
from harness.report.tables import Tables, from_arrow
from harness.sweep import studies

SPEED = Table(
    "speed",
    "a run at one size",
    (
        Column("size", pa.int64(), Role.AXIS, "of a side", "pixels"),
        Column("mode", pa.string(), Role.SETUP, "how it ran"),
        Column("library", pa.string(), Role.SETUP, "what it ran with"),
        Column("rate", pa.float64(), Role.METRIC, "how <fast>", "images/s", expected=True),
        Column("note", pa.float64(), Role.METRIC, "null where there is none"),
        Column("picture", pa.string(), Role.METRIC, "what came out"),
        *estimate("hit", "of what was asked for"),
    ),
    title="How fast <it> is",
)


def speed(size: int, **values: object) -> dict:
    numbers = {"rate": 10.0 * size, **synthetic.estimate("hit", 0.5, 100)}
    common = {**synthetic.COMMON, "key": f"s{size}{values}", "size": size, "mode": "a", "library": "b"}
    return {**common, **numbers, **values}


def tables_of(*rows: dict, declared: Table = SPEED) -> Tables:
    return from_arrow({**synthetic.arrow({}), "speed": declared.filled(rows)})


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[re.sub(r"<[^>]*>", " ", cell).split() for cell in row] for row in found]


def test_columns_that_vary_axes_and_metrics_with_their_intervals() -> None:
    html = result_table.to_html(tables_of(speed(20, mode="c"), speed(3), speed(20, rate=None)), "speed")
    assert "A row is a run at one size." in html
    head, *rows = cells(html)
    assert head == [
        ["Size", "pixels"],
        ["Mode"],
        ["Rate", "images/s"],
        ["Note"],
        ["Hit", "share,", "0", "to", "1"],
    ]
    hit = ["0.5", "0.402", "to", "0.598"]
    assert rows == [
        [["3"], ["a"], ["30"], ["–"], hit],
        [["20"], ["a"], ["missing"], ["–"], hit],
        [["20"], ["c"], ["200"], ["–"], hit],
    ]
    assert 'title="how &lt;fast&gt;"' in html


def test_data_and_seed_are_shown_where_they_vary() -> None:
    head, *_ = cells(result_table.to_html(tables_of(speed(1), speed(2, seed=4, data="other")), "speed"))
    assert head[:3] == [["Data"], ["Size", "pixels"], ["Seed"]]


def test_many_rows_are_folded_and_very_many_are_cut() -> None:
    few, many, more = (
        result_table.to_html(tables_of(*map(speed, range(count))), "speed") for count in (30, 31, 1003)
    )
    assert "<details>" not in few
    assert "<summary>Results (31 rows)</summary>" in many
    assert "the first 1,000 of 1,003 rows" in more


def test_its_section_failures_and_gaps_are_on_the_page() -> None:
    bad = {**speed(7), "status": "failed", "error": synthetic.TRACEBACK, "rate": None}
    html = page(tables_of(speed(1), speed(2, rate=None), bad), "mine")
    assert '<section id="speed"' in html
    assert "How fast &lt;it&gt; is" in html
    assert "<code>rate</code> in 1 of 2 rows of speed" in html
    assert "1 row of speed" in html
    assert '<p class="summary">2 results · 1 failed' in html
    assert "<code>speed</code>" in html
    assert 'read_parquet("speed.parquet")' in html.replace("&#34;", '"')
    everything_failed = page(tables_of(bad), "mine")
    assert "No trial succeeded, so there are no results." in everything_failed


def test_a_table_without_a_title_is_called_by_its_name() -> None:
    html = page(tables_of(speed(1), declared=SPEED._replace(title="")), "mine")
    assert '<h2 id="speed-title">Speed</h2>' in html


def test_a_table_of_details_has_no_section() -> None:
    html = page(tables_of(speed(1), declared=SPEED._replace(detail=True)), "mine")
    assert '<section id="speed"' not in html


def test_figures_registered_for_it_are_drawn_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def views(tables: Tables) -> list[View] | Absent:
        frame = tables.frames["speed"]
        trace = {"type": "scatter", "x": frame["size"].tolist(), "y": frame["rate"].tolist()}
        return [View({}, Drawing([trace], {}))]

    figures = Registry("figure", {"mine": "nowhere:FIGURE"})
    monkeypatch.setattr(figures, "load", lambda name: Figure("Rates", "A line is a mode.", "speed", views))
    monkeypatch.setattr(page_module, "FIGURES", figures)
    html = page(tables_of(speed(1), speed(2)), "mine")
    section = html[html.index('<section id="speed"') :]
    assert 'id="figure-mine"' in section[: section.index("</section>")]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["features", "weights", "features weights"])
def test_the_page_is_written_where_a_built_in_study_is_gone(
    storage: Storage, small_features: dict, small_weights: dict, folder: str
) -> None:
    """Its table is not declared, as if its folder were deleted: the files speak for themselves, or there are none."""
    gone = {"features": ["features", "similarity", "generation"], "weights": ["weights", "networks"]}
    lost = [name for part in folder.split() for name in gone[part]]
    declared = {name: table for name, table in studies.tables().items() if name not in lost}
    arrow = {
        name: table
        for name, table in synthetic.arrow(small_features, small_weights).items()
        if name in declared
    }
    arrow |= {"speed": SPEED.filled([speed(1)])}
    html = page(from_arrow(arrow), "mine")
    shown = {"features", "weights", "speed"} - set(folder.split())
    assert {name for name in ("features", "weights", "speed") if f'<section id="{name}"' in html} == shown
    synthetic.write(storage, "mine", small_features, small_weights)
    write_report(storage, "mine", declared)
    written = storage.read("mine/report.html").decode()
    assert '<section id="features"' in written
    assert '<section id="weights"' in written


def test_a_section_that_lacks_a_table_is_a_generic_one(small_weights: dict) -> None:
    arrow = synthetic.arrow(small_weights, synthetic.generation_rows())
    del arrow["networks"], arrow["features"], arrow["correctness"]
    html = page(from_arrow(arrow), "mine")
    assert "A row is a trial: k originals" in html
    assert "A row is a backbone&#39;s samples" in html
    assert synthetic.GRID not in html
    assert list(sections(from_arrow(arrow))) == ["cka", "generation", "weights"]
