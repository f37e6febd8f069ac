"""Validation accuracy along one axis of study 1, a line per value of another; controls dashed, published hollow."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    View,
    percentages,
    ramp,
    split,
    varied,
)
from harness.report.figures.probes import NO_PROBES, columns, known
from harness.report.tables import Tables, best_row, measure_of
from harness.report.words import label, number, plain

MOST_NAMED = 12  # lines that can be distinguished
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
AXIS_TITLES = {
    "block": "Block (from the input)",
    "timestep": "Timestep (0 is least noise)",
    "sigma": "Noise over signal, σ (log axis)",
    "log_snr": "log-SNR (left is least noise)",
    "pool": "Pool (pool × pool)",
}
AXIS_LAYOUTS: dict[str, dict[str, Any]] = {
    "sigma": {"type": "log"},
    "log_snr": {"autorange": "reversed"},
    "pool": {"type": "log"},
}


class Curve(NamedTuple):
    """One line: accuracies in percent with their 95 % intervals; None is missing."""

    name: str
    x: list[float]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


class Lines(NamedTuple):
    """The lines of one figure; controls are drawn dashed, published numbers hollow."""

    curves: list[Curve]
    controls: list[Curve]
    published: list[Curve] = []
    measure: str = "accuracy"


def averaged(rows: pd.DataFrame, x: str, by: str) -> list[Curve]:
    """Returns a line for each value of `by` through the mean at each x; with an interval if that is one row."""
    groups = rows.groupby([by, x])
    mean = groups["validation_score"].mean()
    alone = (groups.size() == 1).to_numpy()  # several rows, such as seeds, have no common interval
    low, high = (groups[f"validation_score_{end}"].first().where(alone) for end in ("low", "high"))
    numbers = [percentages(column) for column in (mean, low, high)]
    values, places = (mean.index.get_level_values(place).tolist() for place in (0, 1))
    curves = []
    for value, members in itertools.groupby(range(len(values)), key=values.__getitem__):
        at = list(members)
        mine = ([column[i] for i in at] for column in numbers)
        curves.append(Curve(f"{by} {plain(value)}", [float(places[i]) for i in at], *mine))
    return curves


def highest(name: str, rows: pd.DataFrame, x: str) -> Curve:
    """Returns a line through the best of the rows at each x."""
    best = rows.dropna(subset=["validation_score", x])
    best = (
        best.sort_values("validation_score", ascending=False, kind="stable").drop_duplicates(x).sort_values(x)
    )
    low, high = (percentages(best[f"validation_score_{end}"]) for end in ("low", "high"))
    places = [float(place) for place in best[x]]
    return Curve(name, places, percentages(best["validation_score"]), low, high)


def level(name: str, rows: pd.DataFrame, x: list[float]) -> Curve | None:
    """Returns a horizontal line at the best of the rows, None if they have no accuracy."""
    best = best_row(rows, "validation_score")
    if best is None or not x:
        return None
    value, low, high = (
        percentages([number(best[f"validation_score{end}"])])[0] for end in ("", "_low", "_high")
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
    """Returns the control's rows with the same choices, as far as it has them (pixels have no backbone)."""
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


def published_curve(name: str, rows: pd.DataFrame, x: str) -> Curve:
    """Returns a line through published accuracies, which have no interval."""
    rows = rows.sort_values(x)
    nothing: list[float | None] = [None] * len(rows)
    return Curve(
        name, [float(place) for place in rows[x]], [float(v) for v in rows["value"]], nothing, nothing
    )


def draw(numbers: Lines, x: str) -> Drawing:
    """Returns the figure of lines along the axis `x`."""
    traces = []
    colours = ramp(len(numbers.curves))
    step = -(-len(numbers.curves) // MOST_NAMED)
    for i, curve in enumerate(numbers.curves):
        trace = _trace(
            curve, {"color": colours[i]}, {"color": colours[i], "symbol": SYMBOLS[i % len(SYMBOLS)]}, x
        )
        if step > 1:  # too many to distinguish: the legend names some, hovering names the rest
            trace |= {"mode": "lines", "showlegend": i % step == 0}
            trace["line"]["width"] = 1.2
        traces.append(trace)
    for curve, dash in zip(numbers.controls, ("dash", "dot"), strict=False):
        traces.append(_trace(curve, {"color": GREY, "dash": dash}, {"color": GREY, "size": 5}, x))
    traces += [published_trace(curve, i, x) for i, curve in enumerate(numbers.published)]
    every = [*numbers.curves, *numbers.controls, *numbers.published]
    places = sorted({place for curve in every for place in curve.x})
    ticks = {"tickvals": places, "ticktext": [plain(place) for place in places]} if x == "pool" else {}
    return Drawing(
        traces,
        {
            "xaxis": {"title": {"text": AXIS_TITLES[x]}, **AXIS_LAYOUTS.get(x, {}), **ticks},
            "yaxis": {"title": {"text": f"Validation {numbers.measure} (%)"}},
        },
    )


def published_trace(curve: Curve, place: int, x: str) -> dict[str, Any]:
    """Returns the trace of published numbers, grey and hollow, which a switch on the page hides."""
    line = {"color": GREY, "width": 1.5, "dash": "longdashdot"}
    symbol = f"{SYMBOLS[place % len(SYMBOLS)]}-open"
    trace = _trace(curve, line, {"color": GREY, "symbol": symbol, "size": 9}, x)
    return trace | {"meta": {"published": True}}


def _trace(curve: Curve, line: dict[str, Any], marker: dict[str, Any], x: str) -> dict[str, Any]:
    spans = [
        "" if low is None or high is None else f" ({low:.1f}–{high:.1f} %)"
        for low, high in zip(curve.low, curve.high, strict=True)
    ]
    return {
        "type": "scatter",
        "x": curve.x,
        "y": curve.accuracy,
        "name": label(curve.name),
        "mode": "lines+markers",
        "line": line,
        "marker": marker,
        "customdata": spans,
        "hovertemplate": f"{x} %{{x}}: <b>%{{y:.2f}} %</b>%{{customdata}}",
    }


def along(
    tables: Tables, x: str, by: str, beside: Callable[[pd.DataFrame, dict[str, str], str], list[Curve]]
) -> list[View] | Absent:
    """Draws lines along `x` for each pool and head, of the trained backbone where there is one.

    If all rows have a noise level, the reader may choose it as the axis instead of the timestep. `beside` is called
    with a figure's rows, its choices and its axis, and returns the published lines that correspond.
    """
    frame = known(tables)
    shown = frame[frame["features"] == "trained"].dropna(subset=[x, by])
    if shown.empty:
        return Absent(NO_PROBES)
    if shown[x].nunique() < 2:
        return Absent(f"All probes are at {x} {plain(shown[x].iloc[0])}; a line needs at least two values.")
    axes = _axes(shown, x)
    data = dict(tuple(frame.groupby("data", dropna=False)))
    drawn = []
    for choice, rows in split(shown, [*varied(shown, columns(tables).what), "pool", "head"]):
        for name, axis in axes.items():
            numbers = lines(data[rows["data"].iloc[0]], rows, choice, axis, by)
            measure = measure_of(rows)
            published = beside(rows, choice, axis) if measure == "accuracy" else []
            numbers = numbers._replace(published=published, measure=measure)
            drawn.append(View({**choice, "axis": name} if len(axes) > 1 else choice, draw(numbers, axis)))
    return drawn


def _axes(shown: pd.DataFrame, x: str) -> dict[str, str]:
    """Returns the columns along which lines over `x` may be drawn, by the name of the choice."""
    if x != "timestep" or shown[["sigma", "log_snr"]].isna().to_numpy().any() or (shown["sigma"] <= 0).any():
        return {x: x}
    return {"timestep": "timestep", "σ": "sigma", "log-SNR": "log_snr"}
