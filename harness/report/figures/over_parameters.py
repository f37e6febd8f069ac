"""Validation accuracy against a head's parameters: each head at its best setting, with the published heads."""

from typing import NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    Absent,
    Drawing,
    Figure,
    View,
    error_bars,
    percentages,
    ramp,
    split,
    varied,
)
from harness.report.figures.lines import Curve, published_trace
from harness.report.figures.probes import NO_PROBES, columns, highest, known
from harness.report.published import ATTENTION_PARAMETERS, LINEAR_CHANNELS, LINEAR_CLASSES, of_figure
from harness.report.tables import Tables, measure_of
from harness.report.words import label, plain

KINDS = {"trained": "one block and timestep", "combined": "several blocks and timesteps"}
SYMBOLS = {"trained": "circle", "combined": "star"}
NAME = "published: ADM, ImageNet-50"


class Heads(NamedTuple):
    """Heads of one kind of features, the smallest first: parameters, accuracies in percent with their intervals."""

    kind: str
    heads: list[str]
    settings: list[str]
    parameters: list[int]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


def best_heads(frame: pd.DataFrame) -> list[Heads]:
    """Returns each head's best row on validation, by kind of features."""
    found = []
    for kind in KINDS:
        rows = frame[frame["features"] == kind].dropna(subset=["parameter_count", "head"])
        rows = highest(rows, ["head"]).sort_values("parameter_count", kind="stable")
        if len(rows):
            numbers = (percentages(rows[f"validation_score{end}"]) for end in ("", "_low", "_high"))
            settings = [_setting(row) for row in rows.to_dict("records")]
            parameters = [int(value) for value in rows["parameter_count"]]
            found.append(Heads(kind, [plain(head) for head in rows["head"]], settings, parameters, *numbers))
    return found


def _setting(row: dict) -> str:
    if row["features"] == "combined":
        return plain(row["block_name"])
    return ", ".join(f"{name} {plain(row[name])}" for name in ("block", "timestep", "pool"))


def published_heads() -> list[Curve]:
    """Returns the published linear heads (pools 1, 2, 4, 8) and attention heads (1 to 5 blocks); x is parameters."""
    rows = of_figure("heads")
    linear = rows[rows["head"] == "linear"]
    attention = rows[rows["head"].isin(ATTENTION_PARAMETERS)]
    inputs = LINEAR_CHANNELS * linear["pool"].astype(int) ** 2
    parts = (
        ("linear", linear, (inputs + 1) * LINEAR_CLASSES),
        ("attention", attention, attention["head"].map(ATTENTION_PARAMETERS)),
    )
    return [
        Curve(
            f"{NAME}, {name}",
            [float(x) for x in xs],
            part["value"].tolist(),
            [None] * len(part),
            [None] * len(part),
        )
        for name, part, xs in parts
    ]


def draw(found: list[Heads], published: list[Curve], measure: str = "accuracy") -> Drawing:
    """Returns the figure; heads without parameters, such as nearest neighbours, are drawn at 1 on the log axis."""
    traces = []
    for heads, colour in zip(found, ramp(len(found)), strict=True):
        details = [
            f"{label(setting)}<br>{count:,} parameters"
            for setting, count in zip(heads.settings, heads.parameters, strict=True)
        ]
        traces.append(
            {
                "type": "scatter",
                "x": [max(1, count) for count in heads.parameters],
                "y": heads.accuracy,
                "name": KINDS[heads.kind],
                "mode": "markers+text",
                "text": [label(head) for head in heads.heads],
                "textposition": "top right",
                "cliponaxis": False,
                "marker": {"color": colour, "symbol": SYMBOLS[heads.kind], "size": 10},
                "error_y": error_bars(heads.accuracy, heads.low, heads.high),
                "customdata": details,
                "hovertemplate": "<b>%{text}: %{y:.2f} %</b><br>%{customdata}",
            }
        )
    traces += [published_trace(curve, i, "parameters") for i, curve in enumerate(published)]
    xaxis = {
        "title": {"text": "Parameters that the head learns (log axis)"},
        "type": "log",
        "exponentformat": "SI",
    }
    return Drawing(traces, {"xaxis": xaxis, "yaxis": {"title": {"text": f"Validation {measure} (%)"}}})


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure, or one for each data set and backbone."""
    frame = known(tables, *KINDS)
    if frame.empty:
        return Absent(NO_PROBES)
    if frame["parameter_count"].isna().all():
        return Absent("The table has no numbers of parameters.")
    if frame.dropna(subset=["parameter_count"])["head"].nunique() < 2:
        return Absent("All probes use the same head, so there is nothing to compare.")
    return [
        View(choice, draw(best_heads(rows), published_heads() if judged == "accuracy" else [], judged))
        for choice, rows in split(frame, varied(frame, columns(tables).what))
        if rows["parameter_count"].notna().any()
        for judged in [measure_of(rows)]
    ]


FIGURE = Figure(
    title="Heads against their parameters",
    reading="Each mark is a head at the setting where it does best on validation, with its 95 % interval; a large "
    "head is worth its cost only if its interval is above those of the small ones.",
    study="features",
    views=views,
)
