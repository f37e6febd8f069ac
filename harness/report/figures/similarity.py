"""Every network's accuracy against its max similarity to the originals."""

from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from harness.report.figures.figure import Absent, Figure, View, percentages, split, succeeded, varied
from harness.report.figures.kinds import SETUP, kind_name, kind_order, marks
from harness.report.tables import Tables
from harness.report.words import label, number, plain

MOST_IN_SVG = 20_000  # points; beyond it the browser needs WebGL


class Cloud(NamedTuple):
    """The networks of one kind: max similarity from 0 to 1, accuracy in percent."""

    kind: str
    setting: float | None
    names: list[str]
    similarity: list[float]
    accuracy: list[float]


def clouds(frame: pd.DataFrame, accuracy: str) -> list[Cloud]:
    """Returns the networks that have both numbers, by kind and setting."""
    frame = frame.dropna(subset=["max_similarity", accuracy, "kind"])
    found = []
    for (kind, setting), rows in frame.groupby(["kind", "setting"], dropna=False, sort=False):
        found.append(
            Cloud(
                kind=str(kind),
                setting=number(setting),
                names=[plain(index) for index in rows["index"]],
                similarity=[round(float(value), 4) for value in rows["max_similarity"]],
                accuracy=[value for value in percentages(rows[accuracy]) if value is not None],
            )
        )
    return sorted(found, key=lambda cloud: kind_order(cloud.kind, cloud.setting))


def draw(found: list[Cloud], accuracy_title: str) -> Any:
    """Returns the scatter of all networks; the few (an ensemble) are drawn larger, over the many."""
    shape = go.Scattergl if sum(len(cloud.names) for cloud in found) > MOST_IN_SVG else go.Scatter
    figure = go.Figure()
    for cloud, mark in zip(found, marks([(cloud.kind, cloud.setting) for cloud in found]), strict=True):
        few = len(cloud.names) <= 3
        figure.add_trace(
            shape(
                x=cloud.similarity,
                y=cloud.accuracy,
                name=label(kind_name(cloud.kind, cloud.setting)),
                mode="markers",
                marker={
                    "color": mark.colour,
                    "symbol": mark.symbol,
                    "size": 13 if few else 7,
                    "opacity": 1 if few else 0.75,
                },
                customdata=cloud.names,
                hovertemplate="network %{customdata}<br>similarity %{x:.3f}<br><b>%{y:.2f} %</b>",
            )
        )
    figure.update_layout(
        height=480,
        xaxis={"title": {"text": "Max similarity to an original (IoU of errors, 0 to 1)"}},
        yaxis={"title": {"text": accuracy_title}},
    )
    return figure


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each K, subset and setup."""
    frame = succeeded(tables.networks).dropna(subset=["max_similarity"])
    # test accuracy where it was measured for all: nothing is selected by this figure
    name = "test" if frame["test_accuracy"].notna().any() else "validation"
    frame = frame.dropna(subset=[f"{name}_accuracy"])
    if frame.empty:
        return Absent("No network has both an accuracy and a max similarity.")
    choices = [*varied(frame, SETUP), *varied(frame, ["subset"]), "k"]
    return [
        View(choice, draw(clouds(rows, f"{name}_accuracy"), f"{name.capitalize()} accuracy (%)"))
        for choice, rows in split(frame, choices)
    ]


FIGURE = Figure(
    title="Accuracy against similarity",
    reading="Each mark is one network; far right means that it errs exactly where some original errs, so a "
    "network that is new and good stands high and to the left.",
    study="weights",
    views=views,
)
