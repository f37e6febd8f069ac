"""Similarity of networks in four cases: among originals, among generated, across, and the largest of each."""

import itertools
from typing import Any, NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    Figure,
    View,
    error_bars,
    levels,
    ramp,
    split,
    succeeded,
)
from harness.report.published.parameter_diffusion import EDITIONS, of_figure
from harness.report.setups import axes, columns_of, measured, setup, telling
from harness.report.tables import Tables
from harness.report.words import plain

CASES = {  # columns, and the paper's name for their content
    "similarity_original": ("among<br>originals", "original-original"),
    "similarity_generated": ("among<br>generated", "generated-generated"),
    "similarity_across": ("across", "original-generated"),
    "similarity_max": ("largest<br>across", "max original-generated"),
}
Numbers = list[float | None]


class Bars(NamedTuple):
    """The four cases at one K, from 0 to 1, with 95 % intervals where there are several runs."""

    name: str
    value: Numbers
    low: Numbers
    high: Numbers
    published: bool = False


def with_largest(tables: Tables) -> pd.DataFrame:
    """Returns the trials with `similarity_max`: the mean over generated networks of their max similarity."""
    networks = succeeded(tables.networks)
    largest = networks[networks["kind"] == "generated"].groupby("key")["max_similarity"].mean()
    frame = succeeded(tables.weights)
    return frame.assign(similarity_max=frame["key"].map(largest).astype(float))


def bars(frame: pd.DataFrame) -> list[Bars]:
    """Returns the cases at each K; runs are averaged."""
    found = []
    for k in levels(frame["k"]):
        means = [measured(frame[frame["k"] == k], column) for column in CASES]
        value, low, high = (
            [None if one is None else round(one, 4) for one in column] for column in columns_of(means)
        )
        found.append(Bars(f"K = {plain(k)}", value, low, high))
    return [one for one in found if any(value is not None for value in one.value)]


def published_bars() -> list[Bars]:
    """Returns the paper's, CIFAR-100 and ResNet-18."""
    found = []
    for edition, preset in EDITIONS.items():
        rows = of_figure("similarity", edition=edition).set_index("setting")["value"]
        values: Numbers = [float(rows[name]) for _, name in CASES.values()]
        found.append(Bars(f"published: {preset}", values, [], [], published=True))
    return found


def draw(found: list[Bars]) -> Drawing:
    """Returns bars side by side, the published ones grey and hollow."""
    names = [name for name, _ in CASES.values()]
    colours = iter(ramp(sum(not one.published for one in found)))
    patterns = itertools.cycle(("", "/"))
    traces = []
    for one in found:
        trace: dict[str, Any] = {
            "type": "bar",
            "x": names,
            "y": one.value,
            "name": one.name,
            "hovertemplate": "%{x}: <b>%{y:.3f}</b>",
        }
        if one.published:
            outline: dict[str, Any] = {"color": "rgba(0,0,0,0)", "line": {"color": GREY, "width": 1.5}}
            outline |= {"pattern": {"shape": next(patterns), "fgcolor": GREY, "size": 6}}
            trace |= {"marker": outline, "meta": {"published": True}}
        else:
            trace |= {"marker": {"color": next(colours)}, "error_y": error_bars(one.value, one.low, one.high)}
        traces.append(trace)
    yaxis = {"title": {"text": "Similarity (IoU of errors, 0 to 1)"}, "range": [0, 1.02]}
    return Drawing(
        traces,
        {
            "xaxis": {"type": "category", "tickangle": 0, "tickfont": {"size": 11}},
            "yaxis": yaxis,
            "bargap": 0.25,
            "barmode": "group",
        },
    )


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each subset and setup; seeds and runs of the generator are averaged."""
    frame = with_largest(tables)
    frame = frame[frame["k"].notna() & frame[list(CASES)].notna().any(axis=1)]
    if frame.empty:
        return Absent("No trial has the similarity of its networks.")
    declared = tables.declared["weights"]
    choices = telling(frame, [*setup(declared), *axes(declared)])
    return [View(choice, draw([*bars(rows), *published_bars()])) for choice, rows in split(frame, choices)]


FIGURE = Figure(
    title="Similarity in four cases",
    reading="Across are pairs of a generated and an original network; largest across is the mean over generated "
    "networks of their most similar original. If generated networks are more similar to each other than "
    "originals are, they are less diverse.",
    study="weights",
    views=views,
)
