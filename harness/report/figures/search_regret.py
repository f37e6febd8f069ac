"""How fast the best setting was found: remaining gain in validation accuracy against the cost so far."""

from typing import NamedTuple

import pandas as pd

from harness.report.figures.figure import Absent, Drawing, Figure, View, levels, ramp, split, varied
from harness.report.figures.lines import SYMBOLS
from harness.report.figures.probes import NO_PROBES, columns, rows_of
from harness.report.tables import Tables
from harness.report.words import label, plain

WITHOUT_SCREENS = "head fits without screens"
COSTS = {
    "image passes": "Images through the backbone",
    "head fits": "Heads fitted, screens included",
    WITHOUT_SCREENS: "Heads fitted, screens left out",
}
# Rows that agree in these were read from the same passes, which count once.
ONE_PASS = [
    "data",
    "features",
    "backbone",
    "regulariser",
    "caching",
    "timestep",
    "seed",
    "train_n",
    "image_passes",
]
SCREEN, FREQUENCY = "screen", "frequency"


class Regret(NamedTuple):
    """The steps of one search: the cost so far, and points of accuracy below the best known, which never rise."""

    name: str
    cost: list[int]
    regret: list[float]


def regret(frame: pd.DataFrame, cost: str, name: str) -> Regret:
    """Returns the steps of one search in the order in which trials began; what is no fit only adds cost.

    A frequency trial takes passes, but no fit.
    """
    frame = frame.sort_values("began_at", kind="stable")
    fit, screen = frame["features"] == "trained", frame["features"] == SCREEN
    if cost == "image passes":
        spent = frame["image_passes"].where(~frame.duplicated(ONE_PASS), 0).cumsum()
    else:
        spent = (fit | (screen & (cost == "head fits"))).cumsum()
    best = frame["validation_score"].where(fit).cummax().ffill()
    missing = 100 * (best.max() - best)
    steps = missing.notna() & (missing != missing.shift())
    steps.iloc[-1] = True  # the search went on after it had found its best
    return Regret(name, [int(v) for v in spent[steps]], [round(float(v), 3) for v in missing[steps]])


def draw(found: list[Regret], cost: str) -> Drawing:
    """Returns the steps as lines."""
    traces = [
        {
            "type": "scatter",
            "x": one.cost,
            "y": one.regret,
            "name": label(one.name),
            "mode": "lines+markers",
            "line": {"color": colour, "shape": "hv"},
            "marker": {"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 6},
            "hovertemplate": "after %{x:,}: <b>%{y:.2f} points</b>",
        }
        for i, (one, colour) in enumerate(zip(found, ramp(len(found)), strict=True))
    ]
    yaxis = {"title": {"text": "Below the best known (points)"}, "rangemode": "tozero"}
    return Drawing(traces, {"xaxis": {"title": {"text": COSTS[cost]}, "rangemode": "tozero"}, "yaxis": yaxis})


def views(tables: Tables) -> list[View] | Absent:
    """Draws a figure for each cost, a line for each seed; data sets and backbones are choices."""
    frame = rows_of(tables, "trained", SCREEN, FREQUENCY).dropna(subset=["began_at"])
    frame = frame[frame["validation_score"].notna() | (frame["features"] == FREQUENCY)]
    candidates = frame[frame["features"] == "trained"]
    if candidates.empty:
        return Absent(NO_PROBES)
    if candidates["began_at"].nunique() < 2:
        return Absent("The order of the trials is unknown, or there is only one.")
    costs = [cost for cost in COSTS if cost != "image passes" or frame["image_passes"].notna().all()]
    if not (frame["features"] == SCREEN).any():
        costs = [cost for cost in costs if cost != WITHOUT_SCREENS]
    choices = varied(candidates, columns(tables).what)
    drawn = []
    for choice, rows in split(frame[frame["data"].isin(candidates["data"])], choices):
        if not (rows["features"] == "trained").any():
            continue
        for cost in costs:
            found = [_of_seed(rows, seed, cost) for seed in levels(rows["seed"])]
            drawn.append(
                View({**choice, "cost": cost}, draw([one for one in found if one is not None], cost))
            )
    return drawn


def _of_seed(rows: pd.DataFrame, seed: int, cost: str) -> Regret | None:
    mine = rows[rows["seed"] == seed]
    return regret(mine, cost, f"seed {plain(seed)}") if (mine["features"] == "trained").any() else None


FIGURE = Figure(
    title="Regret against cost",
    reading="How far the best setting found so far is below the best in the table, in the order in which trials "
    "began; a search that stays above 0 for long gains little for its cost.",
    study="features",
    views=views,
)
