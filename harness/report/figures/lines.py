"""Validation accuracy along one axis of study 1, a line per value of another, controls dashed."""

from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from harness.report.figures.figure import (
    GREY,
    Absent,
    View,
    levels,
    percentages,
    ramp,
    split,
    succeeded,
    varied,
)
from harness.report.tables import Tables, best_row
from harness.report.words import label, number, plain

MOST_NAMED = 12  # lines that can be told apart
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
AXIS_TITLES = {
    "block": "Block (from the input)",
    "timestep": "Timestep (0 is least noise)",
    "pool": "Pool (pool × pool)",
}
VALUES = ["validation_accuracy", "validation_accuracy_low", "validation_accuracy_high"]
COLUMNS = ["features", "data", "backbone", "block", "timestep", "pool", "head", *VALUES]
ACCURACY_TITLE = "Validation accuracy (%)"


class Curve(NamedTuple):
    """One line: accuracies in percent with their 95 % intervals; None is missing."""

    name: str
    x: list[float]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


class Lines(NamedTuple):
    """The lines of one figure; controls are drawn dashed."""

    curves: list[Curve]
    controls: list[Curve]


def averaged(rows: pd.DataFrame, x: str, by: str) -> list[Curve]:
    """Returns a line for each value of `by` through the mean at each x; an interval where that is one row."""
    groups = rows.groupby([by, x])
    alone = groups.size() == 1  # several, such as seeds, have no common interval
    mean = groups["validation_accuracy"].mean()
    low, high = (groups[f"validation_accuracy_{end}"].first().where(alone) for end in ("low", "high"))
    curves = []
    for value in levels(rows[by]):
        places = [float(place) for place in mean.loc[value].index]
        numbers = (percentages(column.loc[value]) for column in (mean, low, high))
        curves.append(Curve(f"{by} {plain(value)}", places, *numbers))
    return curves


def highest(name: str, rows: pd.DataFrame, x: str) -> Curve:
    """Returns a line through the best of the rows at each x."""
    best = rows.dropna(subset=["validation_accuracy", x])
    best = (
        best.sort_values("validation_accuracy", ascending=False, kind="stable")
        .drop_duplicates(x)
        .sort_values(x)
    )
    low, high = (percentages(best[f"validation_accuracy_{end}"]) for end in ("low", "high"))
    places = [float(place) for place in best[x]]
    return Curve(name, places, percentages(best["validation_accuracy"]), low, high)


def level(name: str, rows: pd.DataFrame, x: list[float]) -> Curve | None:
    """Returns a horizontal line at the best of the rows, None if they have no accuracy."""
    best = best_row(rows, "validation_accuracy")
    if best is None or not x:
        return None
    value, low, high = (
        percentages([number(best[f"validation_accuracy{end}"])])[0] for end in ("", "_low", "_high")
    )
    ends = sorted({min(x), max(x)})
    return Curve(name, ends, [value] * len(ends), [low] * len(ends), [high] * len(ends))


def controls(frame: pd.DataFrame, chosen: dict[str, str], x: str, places: list[float]) -> list[Curve]:
    """Returns the untrained backbone's best at each x, and the level of raw pixels, for the same choices."""
    kinds = dict(tuple(frame.groupby("features")))
    curves: list[Curve | None] = []
    if "untrained" in kinds:
        rows = _matching(kinds["untrained"], chosen)
        curves.append(highest("untrained, best", rows, x))
    if "pixels" in kinds:
        curves.append(level("pixels, best", _matching(kinds["pixels"], chosen), places))
    return [curve for curve in curves if curve is not None and curve.x]


def _matching(rows: pd.DataFrame, chosen: dict[str, str]) -> pd.DataFrame:
    """Returns the control's rows with the same choices, as far as it has them: pixels have no backbone."""
    for column, value in chosen.items():
        same = rows[rows[column].map(plain) == value]
        rows = rows if same.empty else same
    return rows


def lines(frame: pd.DataFrame, shown: pd.DataFrame, chosen: dict[str, str], x: str, by: str) -> Lines:
    """Returns a line along `x` for each value of `by` in the rows `shown`; controls come from `frame`."""
    shown = shown.dropna(subset=[x, by])
    curves = averaged(shown, x, by)
    places = sorted({place for curve in curves for place in curve.x})
    return Lines(curves, controls(frame, chosen, x, places))


def draw(numbers: Lines, x: str) -> Any:
    """Returns the figure of lines along the axis `x`."""
    figure = go.Figure()
    colours = ramp(len(numbers.curves))
    step = -(-len(numbers.curves) // MOST_NAMED)
    for i, curve in enumerate(numbers.curves):
        style = {"color": colours[i], "symbol": SYMBOLS[i % len(SYMBOLS)]}
        trace = _trace(curve, {"color": colours[i]}, style, x)
        if step > 1:  # too many to tell apart: a legend of some shows the order, pointing names the rest
            trace.update(mode="lines", line_width=1.2, showlegend=i % step == 0)
        figure.add_trace(trace)
    for curve, dash in zip(numbers.controls, ("dash", "dot"), strict=False):
        figure.add_trace(_trace(curve, {"color": GREY, "dash": dash}, {"color": GREY, "size": 5}, x))
    places = sorted({place for curve in [*numbers.curves, *numbers.controls] for place in curve.x})
    ticks = {"tickvals": places, "ticktext": [plain(place) for place in places]} if x == "pool" else {}
    figure.update_layout(
        xaxis={"title": {"text": AXIS_TITLES[x]}, "type": "log" if x == "pool" else "linear", **ticks},
        yaxis={"title": {"text": ACCURACY_TITLE}},
    )
    return figure


def _trace(curve: Curve, line: dict[str, Any], marker: dict[str, Any], x: str) -> Any:
    spans = [
        "" if low is None or high is None else f" ({low:.1f}–{high:.1f} %)"
        for low, high in zip(curve.low, curve.high, strict=True)
    ]
    return go.Scatter(
        x=curve.x,
        y=curve.accuracy,
        name=label(curve.name),
        mode="lines+markers",
        line=line,
        marker=marker,
        customdata=spans,
        hovertemplate=f"{x} %{{x}}: <b>%{{y:.2f}} %</b>%{{customdata}}",
    )


def along(tables: Tables, x: str, by: str) -> list[View] | Absent:
    """Draws lines along `x` for each pool and head, of the trained backbone where there is one."""
    frame = succeeded(tables.features)[COLUMNS].dropna(subset=["validation_accuracy"])
    shown = frame[frame["features"] == "trained"].dropna(subset=[x, by])
    if shown.empty:
        return Absent("No probe on a trained backbone's features has a validation accuracy.")
    if shown[x].nunique() < 2:
        return Absent(f"All probes are at {x} {plain(shown[x].iloc[0])}: a line needs two.")
    choices = [*varied(shown, ["data", "backbone"]), "pool", "head"]
    return [
        View(choice, draw(lines(_same_data(frame, rows), rows, choice, x, by), x))
        for choice, rows in split(shown, choices)
    ]


def _same_data(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    data = rows["data"].iloc[0]
    return frame[frame["data"].isna() if data is None or data != data else frame["data"] == data]
