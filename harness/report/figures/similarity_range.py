"""Range of max similarity over K, for originals among themselves and for generated networks."""

from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from harness.report.figures.figure import Absent, Figure, View, axis_range, levels, split, succeeded, varied
from harness.report.figures.kinds import SETUP, marks
from harness.report.tables import Tables

KINDS = ("original", "generated")


class Range(NamedTuple):
    """Least, mean and greatest max similarity at each K, from 0 to 1; None is missing."""

    kind: str
    k: list[int]
    low: list[float | None]
    mean: list[float | None]
    high: list[float | None]


def ranges(frame: pd.DataFrame) -> list[Range]:
    """Returns the range of originals and of generated networks."""
    ks = [int(k) for k in levels(frame["k"])]
    found = []
    for kind in KINDS:
        groups = frame[frame["kind"] == kind].groupby("k")["max_similarity"]
        low, mean, high = (
            [None if value != value else round(float(value), 4) for value in statistic.reindex(ks)]
            for statistic in (groups.min(), groups.mean(), groups.max())
        )
        if any(value is not None for value in mean):
            found.append(Range(kind, ks, low, mean, high))
    return found


def draw(found: list[Range]) -> Any:
    """Returns the means as lines, with bars from the least to the greatest."""
    figure = go.Figure()
    for row, mark in zip(found, marks([(row.kind, None) for row in found]), strict=True):
        up = [None if m is None or h is None else h - m for m, h in zip(row.mean, row.high, strict=True)]
        down = [None if m is None or v is None else m - v for m, v in zip(row.mean, row.low, strict=True)]
        pairs = zip(row.low, row.high, strict=True)
        spans = ["" if low is None or high is None else f"{low:.3f}–{high:.3f}" for low, high in pairs]
        figure.add_scatter(
            x=[str(k) for k in row.k],
            y=row.mean,
            name=row.kind,
            mode="lines+markers",
            line={"color": mark.colour},
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 9},
            error_y={"type": "data", "array": up, "arrayminus": down, "thickness": 2, "width": 7},
            customdata=spans,
            hovertemplate="K = %{x}: mean <b>%{y:.3f}</b>, range %{customdata}",
        )
    ends = [value for row in found for values in (row.low, row.high) for value in values]
    figure.update_layout(
        xaxis={"title": {"text": "K (original checkpoints)"}, "type": "category"},
        yaxis={"title": {"text": "Max similarity (IoU, 0 to 1)"}, "range": axis_range(ends, 0, 1)},
        scattermode="group",
        scattergap=0.75,
    )
    return figure


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each subset and setup."""
    frame = succeeded(tables.networks).dropna(subset=["max_similarity", "k"])
    frame = frame[frame["kind"].isin(KINDS)]
    if frame.empty:
        return Absent("No original or generated network has a max similarity.")
    choices = [*varied(frame, SETUP[:-1]), *varied(frame, ["subset"])]
    return [View(choice, draw(ranges(rows))) for choice, rows in split(frame, choices)]


FIGURE = Figure(
    title="Range of max similarity over K",
    reading="Marks are means, bars run from the least to the greatest; generated above original means that "
    "generated networks are nearer to an original than originals are to each other.",
    study="weights",
    views=views,
)
