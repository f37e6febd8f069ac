"""Validation accuracy over block, a line per timestep."""

import pandas as pd

from harness.report.figures.figure import Absent, Figure, View
from harness.report.figures.lines import Curve, along, published_curve
from harness.report.published import NAME, of_figure, same_blocks
from harness.report.tables import Tables
from harness.report.words import plain


def beside(rows: pd.DataFrame, choice: dict[str, str], axis: str) -> list[Curve]:
    """Returns the published lines (linear, pool 1) for a network whose blocks are numbered as ADM's."""
    if (choice["pool"], choice["head"]) != ("1", "linear") or not same_blocks(rows):
        return []
    found = of_figure("block").groupby("timestep")
    return [published_curve(f"{NAME}, timestep {plain(t)}", lines, axis) for t, lines in found]


def views(tables: Tables) -> list[View] | Absent:
    """Draws the lines for each pool and head."""
    return along(tables, x="block", by="timestep", beside=beside)


FIGURE = Figure(
    title="Accuracy over block",
    reading="A line is one timestep, from blue (little noise) to orange (much); dashed grey are the "
    "controls at their best on validation: the same network untrained, and raw pixels.",
    study="features",
    views=views,
)
