"""Parallel coordinates: every setting of study 1 as a line from its values to its accuracy."""

from typing import Any, NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    Absent,
    Drawing,
    Figure,
    View,
    levels,
    percentages,
    split,
    succeeded,
    varied,
    worded,
)
from harness.report.figures.probes import Columns, columns
from harness.report.tables import Tables, measure_of
from harness.report.words import short


class Axis(NamedTuple):
    """One vertical axis: its levels in order, and for each setting the place of its level."""

    name: str
    levels: list[Any]
    places: list[int]


class Settings(NamedTuple):
    """All settings with an accuracy in percent, worst first, so that the best are drawn on top."""

    axes: list[Axis]
    accuracy: list[float]
    measure: str = "accuracy"


def settings(frame: pd.DataFrame, own: Columns) -> Settings:
    """Returns the settings; an axis is numbered by level, so that uneven steps remain readable."""
    frame = frame.dropna(subset=["validation_score", *own.axes])
    frame = frame.sort_values("validation_score", kind="stable")
    axes = []
    for name in (*varied(frame, own.setup), *own.axes):
        found = levels(frame[name])
        if name in own.axes or len(found) > 1:
            place = {level: i for i, level in enumerate(found)}
            axes.append(Axis(name, found, [place.get(value, -1) for value in frame[name]]))
    known = [value for value in percentages(frame["validation_score"]) if value is not None]
    return Settings(axes, known, measure_of(frame))


def draw(numbers: Settings) -> Drawing:
    """Returns the parallel coordinates of the settings; Plotly shows their tick texts as they are."""
    dimensions = [
        {
            "label": axis.name.capitalize(),
            "values": axis.places,
            "tickvals": list(range(len(axis.levels))),
            "ticktext": [short(level) for level in axis.levels],
            "range": [-0.2, max(len(axis.levels) - 0.8, 0.2)],
        }
        for axis in numbers.axes
    ]
    title = worded("{Measure} (%)", numbers.measure)
    dimensions.append({"label": title, "values": numbers.accuracy, "tickformat": ".1f"})
    return Drawing(
        [{"type": "parcoords", "dimensions": dimensions, "line": {"color": numbers.accuracy}}],
        {"height": 440, "margin": {"t": 56, "b": 24, "l": 48, "r": 48}, "meta": {"min_width": 620}},
    )


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure, or one for each data set."""
    frame = succeeded(tables.features)
    frame = frame[frame["features"] == "trained"].dropna(subset=["validation_score"])
    if len(frame) < 2:
        return Absent("Parallel coordinates need at least two settings with a validation accuracy.")
    own = columns(tables)
    return [View(choice, draw(settings(rows, own))) for choice, rows in split(frame, varied(frame, ["data"]))]


FIGURE = Figure(
    title="All settings at once",
    reading="Each line is one setting; the stronger its colour, the better on validation. Drag along an axis to "
    "keep only the settings in that range; click the axis to reset.",
    study="features",
    views=views,
)
