"""Best, mean and median test accuracy of originals, ensemble and generated networks over K."""

from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from harness.report.figures.figure import (
    Absent,
    Figure,
    View,
    axis_range,
    error_bars,
    levels,
    percentages,
    split,
    succeeded,
    varied,
)
from harness.report.figures.kinds import SETUP, marks
from harness.report.tables import Tables
from harness.report.words import plain

STATISTICS = {"best": "solid", "mean": "dash", "median": "dot"}


class Track(NamedTuple):
    """One line over K: accuracies in percent; the 95 % interval is that of a single network's accuracy."""

    kind: str
    statistic: str
    k: list[int]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


def tracks(frame: pd.DataFrame) -> list[Track]:
    """Returns the lines of one setup; rows with the same K, such as seeds, are averaged."""
    ks = [int(k) for k in levels(frame["k"])]
    found = []
    for kind, statistic in [
        *(("original", statistic) for statistic in STATISTICS),
        ("ensemble", "best"),
        *(("generated", statistic) for statistic in STATISTICS),
    ]:
        column = "ensemble_accuracy" if kind == "ensemble" else f"{kind}_{statistic}_accuracy"
        groups = frame.groupby("k")
        alone = groups.size() == 1
        value = percentages(groups[column].mean().reindex(ks))
        ends: list[list[float | None]] = [[None] * len(ks)] * 2
        if statistic == "best":
            ends = [
                percentages(groups[f"{column}_{end}"].first().where(alone).reindex(ks))
                for end in ("low", "high")
            ]
        if any(v is not None for v in value):
            found.append(Track(kind, statistic, ks, value, *ends))
    return found


def draw(found: list[Track]) -> Any:
    """Returns the figure of lines over K; intervals stand at the best only."""
    figure = go.Figure()
    for track, mark in zip(found, marks([(track.kind, None) for track in found]), strict=True):
        best = track.statistic == "best"
        figure.add_scatter(
            x=[str(k) for k in track.k],
            y=track.accuracy,
            name=track.kind if track.kind == "ensemble" else f"{track.kind}, {track.statistic}",
            mode="lines+markers",
            line={"color": mark.colour, "dash": STATISTICS[track.statistic], "width": 2.5 if best else 1.5},
            marker={"color": mark.colour, "symbol": mark.symbol, "size": 8 if best else 5},
            error_y=error_bars(track.accuracy, track.low, track.high) if best else None,
            hovertemplate="K = %{x}: <b>%{y:.2f} %</b>",
        )
    ends = [
        value for track in found for values in (track.accuracy, track.low, track.high) for value in values
    ]
    figure.update_layout(
        xaxis={"title": {"text": "K (original checkpoints)"}, "type": "category"},
        yaxis={"title": {"text": "Test accuracy (%)"}, "range": axis_range(ends, 0, 100)},
        scattermode="group",
        scattergap=0.75,
    )
    return figure


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each subset and setup."""
    frame = succeeded(tables.weights).dropna(subset=["k"])
    columns = ["original_best_accuracy", "generated_best_accuracy", "ensemble_accuracy"]
    if frame[columns].notna().sum().sum() == 0:
        return Absent("No trial has the accuracy of original or generated networks.")
    if frame["k"].nunique() < 2:
        return Absent(f"All trials have K = {plain(frame['k'].iloc[0])}: the table above says all.")
    choices = [*varied(frame, SETUP[:-1]), *varied(frame, ["subset"])]
    return [View(choice, draw(tracks(rows))) for choice, rows in split(frame, choices)]


FIGURE = Figure(
    title="Accuracy over K",
    reading="Solid lines follow the best network, chosen on validation, with its 95 % interval; where the "
    "intervals overlap widely, the difference may be noise.",
    study="weights",
    views=views,
)
