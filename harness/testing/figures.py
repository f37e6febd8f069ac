"""The contract of a figure of the page: `harness.report.figures.figure.Figure`, from tables to views.

Subclass `FigureContract` and define the fixtures `figure`, the `Figure`, and `tables`, rows that it can draw
(`harness.report.tables.from_arrow` converts them from Arrow tables of the pinned schema).
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pytest

from harness.core.tables import Role
from harness.report.figures.figure import Absent, Figure, View
from harness.report.sections import sections
from harness.report.tables import Tables

HOSTILE = "<b onclick=alert()>"  # prepended to all names that users choose
# columns whose values users choose
NAMES = {
    "data",
    "backbone",
    "block_name",
    "head",
    "encoder",
    "regulariser",
    "network",
    "parameters",
    "varied",
}
NAMES |= {"a_model", "a_block_name", "b_model", "b_block_name"}
OURS = {
    "caching",
    "subset",
    "buffers",
    "preset",
    "optimizer",
    "sampler",
}  # columns with a fixed set of values
RESERVED = ("backbone", "none")  # our own values in these columns
AS_THEY_ARE = {"parcoords"}  # traces whose text Plotly does not read as HTML


def with_frames(tables: Tables, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Tables:
    """Returns the tables with every data frame changed; Arrow tables are unchanged."""
    return tables.with_frames(**{name: change(frame.copy()) for name, frame in tables.frames.items()})


def failed(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows as if every trial had failed."""
    return frame.assign(status="failed")


def hostile(tables: Tables) -> Tables:
    """Returns the tables with HTML in every name that users choose; different names stay different."""
    roles = (Role.AXIS, Role.SETUP)
    found = {
        column.name
        for table in tables.declared.values()
        for column in table.columns
        if column.role in roles and pa.types.is_string(column.type) and column.name not in OURS
    }
    return with_frames(tables, lambda frame: _hostile(frame, NAMES | found))


def _hostile(frame: pd.DataFrame, names: set[str]) -> pd.DataFrame:
    for column in names & set(frame.columns):
        told = frame[column].map(
            lambda name: f"{HOSTILE}{name}" if isinstance(name, str) and name not in RESERVED else name
        )
        frame[column] = told.astype(object)
    return frame


def drawn(figure: Figure, tables: Tables) -> list[View]:
    """Returns the figure's views; fails if there is nothing to draw."""
    views = figure.views(tables)
    assert not isinstance(views, Absent), f"the figure must draw these rows, but: {views.why}"
    assert views, "no views: return Absent with the reason instead"
    return views


def texts(value: Any) -> Iterator[str]:
    """Yields the strings in JSON-like values that Plotly reads as HTML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict) and value.get("type") not in AS_THEY_ARE:
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


class FigureContract:
    """What the page relies on. A subclass defines the fixtures `figure` and `tables`."""

    @pytest.fixture
    def figure(self) -> Figure:
        """The figure to test."""
        raise NotImplementedError("define the fixture `figure`, which returns the Figure to test")

    @pytest.fixture
    def tables(self) -> Tables:
        """Rows that the figure can draw."""
        raise NotImplementedError("define the fixture `tables`, which returns rows that the figure can draw")

    def test_its_words(self, figure: Figure, tables: Tables) -> None:
        assert isinstance(figure, Figure)
        assert figure.title, "a figure needs a title"
        known = sections(tables)
        assert figure.study in known, f"`study` must be a section of the page: {', '.join(known)}"
        assert figure.reading[0].isupper(), "`reading` must be a sentence"
        assert figure.reading.endswith("."), "`reading` must be a sentence"

    def test_its_views(self, figure: Figure, tables: Tables) -> None:
        """All with the same choices, JSON that Plotly knows, the same for the same rows, which stay as they are."""
        before = with_frames(tables, lambda frame: frame)
        views = drawn(figure, tables)
        _check_choices(views)
        drawings = [_drawing(view) for view in views]
        for drawing in drawings[:3]:  # slow in Plotly
            assert go.Figure(json.loads(drawing)).data  # raises for anything unknown to Plotly
        again = [_drawing(view) for view in drawn(figure, tables)]
        assert again == drawings, "the same rows must give the same views"
        for name, frame in before.frames.items():
            assert frame.equals(tables.frames[name]), f"a figure must not change the rows of {name!r}"

    def test_names_are_escaped(self, figure: Figure, tables: Tables) -> None:
        for view in drawn(figure, hostile(tables)):
            drawing = view.figure.to_plotly_json()
            bad = [text for text in texts(drawing) if HOSTILE[:9] in text]
            assert not bad, (
                f"names must be escaped with harness.report.words.label, since Plotly reads them as HTML: {bad[0]}"
            )

    def test_without_rows_it_is_absent(self, figure: Figure, tables: Tables) -> None:
        self._absent(figure, with_frames(tables, lambda frame: frame.iloc[:0]), "without rows")

    def test_if_every_trial_failed_it_is_absent(self, figure: Figure, tables: Tables) -> None:
        self._absent(figure, with_frames(tables, failed), "if every trial failed")

    @staticmethod
    def _absent(figure: Figure, tables: Tables, when: str) -> None:
        views = figure.views(tables)
        assert isinstance(views, Absent), f"{when} a figure must return Absent, with the reason"
        assert views.why.endswith("."), f"the reason must be a sentence: {views.why}"


def _check_choices(views: list[View]) -> None:
    choices = [tuple(view.choice.items()) for view in views]
    assert len({tuple(view.choice) for view in views}) == 1, (
        "all views must have the same choice names in the same order"
    )
    assert len(set(choices)) == len(choices), "two views must not have the same choices"
    for name in views[0].choice:
        values = [view.choice[name] for view in views]
        assert all(isinstance(value, str | None) for value in values), f"values of {name!r} must be strings"
        assert any(value is not None for value in values), f"choice {name!r} is unused by all views"


def _drawing(view: View) -> str:
    drawing = view.figure.to_plotly_json()
    assert drawing["data"], f"{dict(view.choice)}: nothing is drawn"
    try:
        return json.dumps(drawing, allow_nan=False)
    except (TypeError, ValueError) as error:
        pytest.fail(f"{dict(view.choice)}: must be JSON, with None for what is missing: {error}")
