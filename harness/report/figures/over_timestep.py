"""Validation accuracy over timestep, a line per block."""

from harness.report.figures.figure import Absent, Figure, View
from harness.report.figures.lines import along
from harness.report.tables import Tables


def views(tables: Tables) -> list[View] | Absent:
    """Draws the lines for each pool and head."""
    return along(tables, x="timestep", by="block")


FIGURE = Figure(
    title="Accuracy over timestep",
    reading="A line is one block, from blue (near the input) to orange (near the output); a peak away from 0 "
    "means that some noise brings out better features.",
    study="features",
    views=views,
)
