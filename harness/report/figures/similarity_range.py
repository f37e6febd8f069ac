"""Range of max similarity over K, for originals among themselves and for generated networks."""

from typing import NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    Figure,
    View,
    axis_range,
    error_bars,
    levels,
    split,
    succeeded,
)
from harness.report.figures.kinds import marks
from harness.report.published.parameter_diffusion import EDITIONS, of_figure
from harness.report.setups import axes, setup, telling
from harness.report.tables import Tables
from harness.report.words import plain

KINDS = ("original", "generated")


class Range(NamedTuple):
    """Minimum, mean and maximum of max similarity at each K, from 0 to 1; None is missing."""

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


def published_range() -> Range:
    """Returns the paper's range of generated networks, CIFAR-100 and ResNet-18; their mean is not published."""
    rows = of_figure("similarity-K").pivot(index="setting", columns="statistic", values="value")
    rows.index = rows.index.str.removeprefix("K=").astype(int)
    rows = rows.sort_index()
    edition = of_figure("similarity-K")["edition"].iloc[0]
    ks = [int(k) for k in rows.index]
    return Range(EDITIONS[edition], ks, rows["min"].tolist(), [None] * len(ks), rows["max"].tolist())


def draw(found: list[Range], published: Range) -> Drawing:
    """Returns the means as lines, with bars from minimum to maximum; published ranges are hollow."""
    traces = []
    for row, mark in zip(found, marks([(row.kind, None) for row in found]), strict=True):
        pairs = zip(row.low, row.high, strict=True)
        spans = ["" if low is None or high is None else f"{low:.3f}–{high:.3f}" for low, high in pairs]
        traces.append(
            {
                "type": "scatter",
                "x": [str(k) for k in row.k],
                "y": row.mean,
                "name": row.kind,
                "mode": "lines+markers",
                "line": {"color": mark.colour},
                "marker": {"color": mark.colour, "symbol": mark.symbol, "size": 9},
                "error_y": error_bars(row.mean, row.low, row.high) | {"thickness": 2, "width": 7},
                "customdata": spans,
                "hovertemplate": "K = %{x}: mean <b>%{y:.3f}</b>, range %{customdata}",
            }
        )
    middle = [(low + high) / 2 for low, high in zip(published.low, published.high, strict=True)]  # type: ignore[operator]
    bars = error_bars(middle, published.low, published.high)
    traces.append(
        {
            "type": "scatter",
            "x": [str(k) for k in published.k],
            "y": middle,
            "name": f"published: {published.kind}, generated",
            "mode": "markers",
            "marker": {"color": GREY, "symbol": "line-ns-open", "size": 12},
            "error_y": bars | {"thickness": 1.5, "width": 5, "color": GREY},
            "customdata": [f"{a:.2f}–{b:.2f}" for a, b in zip(published.low, published.high, strict=True)],
            "hovertemplate": "K = %{x}: range %{customdata}",
            "meta": {"published": True},
        }
    )
    ends = [value for row in [*found, published] for values in (row.low, row.high) for value in values]
    places = sorted({k for row in [*found, published] for k in row.k})
    layout = {
        "xaxis": {
            "title": {"text": "K (original checkpoints)"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plain(k) for k in places],
        },
        "yaxis": {"title": {"text": "Max similarity (IoU, 0 to 1)"}, "range": axis_range(ends, 0, 1)},
        "scattermode": "group",
        "scattergap": 0.75,
    }
    return Drawing(traces, layout)


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each subset and setup; runs are pooled."""
    frame = succeeded(tables.networks).dropna(subset=["max_similarity", "k"])
    frame = frame[frame["kind"].isin(KINDS)]
    if frame.empty:
        return Absent("No original or generated network has a max similarity.")
    published = published_range()
    declared = tables.declared["weights"]
    choices = telling(frame, [*setup(declared), *axes(declared)])
    return [View(choice, draw(ranges(rows), published)) for choice, rows in split(frame, choices)]


FIGURE = Figure(
    title="Range of max similarity over K",
    reading="Marks are means, bars run from minimum to maximum; generated above original means that "
    "generated networks are nearer to an original than originals are to each other.",
    study="weights",
    views=views,
)
