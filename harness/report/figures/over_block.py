"""Validation accuracy over block, a line per timestep."""

from harness.report.figures.figure import Absent, Figure, View
from harness.report.figures.lines import along
from harness.report.tables import Tables


def views(tables: Tables) -> list[View] | Absent:
    """Draws the lines for each pool and head."""
    return along(tables, x="block", by="timestep")


FIGURE = Figure(
    title="Accuracy over block",
    reading="A line is one timestep, from blue (little noise) to orange (much); dashed grey are the "
    "controls at their best on validation: the same network untrained, and raw pixels.",
    study="features",
    views=views,
)
