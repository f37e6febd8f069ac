"""The results of any study as one HTML table, built from the table's declaration alone."""

from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from markupsafe import Markup

from harness.core.tables import Column, Role
from harness.report.answer_weights import MOST_ROWS
from harness.report.figures.figure import choice_title, succeeded, varied
from harness.report.rendering import render
from harness.report.tables import Tables
from harness.report.words import number

MOST_SHOWN = 1000  # rows; a page of megabytes helps nobody


class Heading(NamedTuple):
    """A column's heading, with its unit and meaning; both may be empty."""

    title: str
    unit: str = ""
    meaning: str = ""
    words: bool = False  # a column of text, which is aligned to the left


class Value(NamedTuple):
    """A measured value with the ends of its interval; None is missing."""

    value: float | None
    low: float | None
    high: float | None
    expected: bool  # if missing, the page says so


class Row(NamedTuple):
    """One result: where it was measured, and what was measured."""

    setting: list[Any]
    values: list[Value]


def headings(tables: Tables, name: str) -> tuple[list[Heading], list[Heading]]:
    """Returns the headings of the columns that distinguish results, and those of the metrics."""
    keys = [_heading(column) for column in _keys(tables, name)]
    return keys, [_heading(column) for column in _metrics(tables, name)]


def rows(tables: Tables, name: str) -> list[Row]:
    """Returns the results of the table `name` that succeeded, sorted by the columns that distinguish them."""
    keys = [column.name for column in _keys(tables, name)]
    metrics = _metrics(tables, name)
    frame = succeeded(tables.frames[name])
    frame = frame.sort_values(keys, kind="stable") if keys else frame
    return [
        Row([row[column] for column in keys], [_value(row, column) for column in metrics])
        for row in frame.to_dict("records")
    ]


def to_html(tables: Tables, name: str) -> Markup:
    """Returns what a row is, and the results."""
    found = rows(tables, name)
    keys, metrics = headings(tables, name)
    return render(
        "results.html",
        table=name,
        row=tables.declared[name].row,
        keys=keys,
        metrics=metrics,
        results=found[:MOST_SHOWN],
        total=len(found),
        folded=len(found) > MOST_ROWS,
    )


def _keys(tables: Tables, name: str) -> list[Column]:
    """Returns data set, set-up and seed if they vary, and all axes, in declared order."""
    frame, declared = tables.frames[name], tables.declared[name]
    plain = [column for column in declared.columns if not pa.types.is_nested(column.type)]
    common = (Column(one, pa.string(), Role.SETUP, "") for one in ("data", "seed"))
    data, seed = (column if varied(frame, [column.name]) else None for column in common)
    own = [
        column
        for column in plain
        if column.role is Role.AXIS or (column.role is Role.SETUP and varied(frame, [column.name]))
    ]
    return [column for column in (data, *own, seed) if column is not None]


def _metrics(tables: Tables, name: str) -> list[Column]:
    """Returns the metrics that are numbers or flags; pictures and lists stay in the table."""
    columns = [column for column in tables.declared[name].columns if column.role is Role.METRIC]
    checks = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    return [column for column in columns if any(check(column.type) for check in checks)]


def _heading(column: Column) -> Heading:
    words = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    return Heading(choice_title(column.name), column.unit, column.meaning, words)


def _value(row: dict[Any, Any], column: Column) -> Value:
    low, high = (number(row.get(f"{column.name}_{end}")) for end in ("low", "high"))
    return Value(_number(row[column.name]), low, high, column.expected)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else number(value)
