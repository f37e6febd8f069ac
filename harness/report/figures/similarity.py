"""Every network's accuracy against its max similarity to the originals."""

from typing import Any

import pandas as pd

from harness.report.figures.figure import GREY, Absent, Drawing, Figure, View, split, succeeded
from harness.report.figures.scatter import Cloud, clouds, most_a_view, narrow, thinned, traces
from harness.report.published.parameter_diffusion import is_ablated, of_figure
from harness.report.setups import RUNS, axes, setup, telling
from harness.report.tables import Tables

HOVER = "network %{customdata}<br>similarity %{x:.3f}<br><b>%{y:.2f} %</b>"


def published_noise() -> dict[str, Any]:
    """Returns the trace of the paper's noise-added networks: means over networks at three scales."""
    rows = of_figure("noise-baseline").set_index(["setting", "metric"])["value"].unstack("metric")
    return {
        "type": "scatter",
        "x": rows["max_iou_wrong"].tolist(),
        "y": rows["top1"].tolist(),
        "text": [setting.removeprefix("std=") for setting in rows.index],
        "name": "published: noise, means",
        "mode": "markers",
        "marker": {"color": GREY, "symbol": "x-thin-open", "size": 11},
        "hovertemplate": "noise %{text}<br>similarity %{x:.3f}<br><b>%{y:.2f} %</b>",
        "meta": {"published": True},
    }


def draw(found: list[Cloud], accuracy_title: str, published: bool) -> Drawing:
    """Returns the scatter of all networks."""
    layout = {
        "height": 480,
        "xaxis": {"title": {"text": "Max similarity to an original (IoU of errors, 0 to 1)"}},
        "yaxis": {"title": {"text": accuracy_title}},
        **thinned(found),
    }
    return Drawing([*traces(found, HOVER), *([published_noise()] if published else [])], layout)


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each trial: K, subset, setup and run."""
    frame = succeeded(tables.networks).dropna(subset=["max_similarity"])
    # test accuracy where it was measured for all: nothing is selected by this figure
    name = "test" if frame["test_accuracy"].notna().any() else "validation"
    frame = frame.dropna(subset=[f"{name}_accuracy"])
    if frame.empty:
        return Absent("No network has both an accuracy and a max similarity.")
    declared = tables.declared["weights"]
    choices = [*telling(frame, [*setup(declared), *RUNS, *axes(declared)]), "k"]
    parts = list(split(narrow(frame, choices, "max_similarity", f"{name}_accuracy"), choices))
    most = most_a_view(len(parts))
    return [View(choice, _view(rows, name, most)) for choice, rows in parts]


def _view(rows: pd.DataFrame, name: str, most: int) -> Drawing:
    found = clouds(rows, "max_similarity", f"{name}_accuracy", most, factor=100)
    published = is_ablated(rows["data"].iloc[0], rows["network"].iloc[0])
    return draw(found, f"{name.capitalize()} accuracy (%)", published)


FIGURE = Figure(
    title="Accuracy against similarity",
    reading="Each mark is one network; far right means that it makes exactly the errors of some original, so a "
    "network that is new and good is at the top left. Click a legend entry to hide that kind.",
    study="weights",
    views=views,
)
