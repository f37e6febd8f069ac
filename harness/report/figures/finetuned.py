"""Validation accuracy of fine-tuned and frozen backbones, setting by setting."""

from typing import Any, NamedTuple

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
    percentages,
    split,
    varied,
)
from harness.report.figures.probes import Columns, columns, highest, known
from harness.report.tables import Tables, best_row, measure_of
from harness.report.words import label, number, plain

ALL = "all"  # tuning of a backbone whose weights were all trained


class Side(NamedTuple):
    """Accuracies in percent with their intervals, one a setting; None where it was not measured."""

    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


class Pairs(NamedTuple):
    """The fine-tuned settings, and the best of all frozen probes, in percent."""

    settings: list[str]
    frozen: Side
    finetuned: Side
    best_frozen: float | None
    tuning: str  # what learnt: "all" or adapters
    measure: str = "accuracy"


def pairs(frame: pd.DataFrame, own: Columns) -> Pairs:
    """Returns the fine-tuned rows of one choice beside the frozen probes at the same settings."""
    setup = [name for name in own.setup if name != "caching"]  # fine-tuned backbones have none
    same = [*setup, *own.axes]
    finetuned, frozen = (highest(frame[frame["features"] == kind], same) for kind in ("finetuned", "trained"))
    twins = finetuned[same].merge(frozen, on=same, how="left")
    best = best_row(frozen, "validation_score") if len(frozen) else None
    shown = [*varied(finetuned, setup), *own.axes]
    return Pairs(
        [", ".join(f"{name} {plain(row[name])}" for name in shown) for row in finetuned.to_dict("records")],
        _side(twins),
        _side(finetuned),
        None if best is None else percentages([number(best["validation_score"])])[0],
        ", ".join(plain(one) for one in levels(finetuned["tuning"])),
        measure_of(finetuned),
    )


def _side(rows: pd.DataFrame) -> Side:
    return Side(*(percentages(rows[f"validation_score{end}"]) for end in ("", "_low", "_high")))


def draw(numbers: Pairs) -> Drawing:
    """Returns the figure: a place a setting, two marks each, the best frozen probe as a level."""
    places = [label(setting) for setting in numbers.settings]
    fine_tuned = "fine-tuned" if numbers.tuning == ALL else f"fine-tuned ({label(numbers.tuning)})"
    looks = {
        "frozen, same setting": (numbers.frozen, "#2f78d6", "circle"),
        fine_tuned: (numbers.finetuned, "#e2711d", "diamond"),
    }
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "x": places,
            "y": side.accuracy,
            "name": name,
            "mode": "markers",
            "marker": {"color": colour, "symbol": symbol, "size": 10},
            "error_y": error_bars(*side),
            "hovertemplate": "%{x}: <b>%{y:.2f} %</b>",
        }
        for name, (side, colour, symbol) in looks.items()
    ]
    if numbers.best_frozen is not None:  # between the two, because grouped marks stand in the order of traces
        level = {
            "type": "scatter",
            "x": places,
            "y": [numbers.best_frozen] * len(places),
            "name": "best frozen probe of all settings",
            "mode": "lines+markers",
            "line": {"color": GREY, "dash": "dash"},
            "marker": {"color": GREY, "symbol": "line-ew-open", "size": 40},
            "hovertemplate": "best frozen probe: <b>%{y:.2f} %</b>",
        }
        traces.insert(1, level)
    ends = [value for side in (numbers.frozen, numbers.finetuned) for values in side for value in values]
    layout = {
        "xaxis": {"type": "category"},
        "yaxis": {
            "title": {"text": f"Validation {numbers.measure} (%)"},
            "range": axis_range([*ends, numbers.best_frozen], 0, 100),
        },
        "scattermode": "group",
        "scattergap": 0.75,
    }
    return Drawing(traces, layout)


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure, or one for each data set."""
    frame = known(tables, "trained", "finetuned")
    finetuned = frame[frame["features"] == "finetuned"]
    if finetuned.empty:
        return Absent("No fine-tuned backbone was evaluated.")
    choices, own = varied(finetuned, ["data"]), columns(tables)
    return [
        View(choice, draw(pairs(frame[frame["data"].isin(rows["data"])], own)))
        for choice, rows in split(finetuned, choices)
    ]


FIGURE = Figure(
    title="Frozen against fine-tuned",
    reading="Each pair is one setting: the head on frozen features, and the same with the backbone fine-tuned up to "
    "that block; bars are 95 % intervals, the dashed line is the best frozen probe of all settings.",
    study="features",
    views=views,
)
