"""Validation accuracy over timestep, or the noise level that it stands for, a line per block."""

import pandas as pd

from harness.report.figures.figure import Absent, Figure, View
from harness.report.figures.lines import Curve, along, published_curve
from harness.report.published import NAME, log_snr, of_figure, sigma
from harness.report.tables import Tables


def beside(rows: pd.DataFrame, choice: dict[str, str], axis: str) -> list[Curve]:
    """Returns the published line (linear, pool 1, ADM's middle block)."""
    if (choice["pool"], choice["head"]) != ("1", "linear"):
        return []
    line = of_figure("timestep")
    line = line.assign(sigma=line["timestep"].map(sigma), log_snr=line["timestep"].map(log_snr))
    return [published_curve(f"{NAME}, block 19 (middle)", line, axis)]


def views(tables: Tables) -> list[View] | Absent:
    """Draws the lines for each pool and head."""
    return along(tables, x="timestep", by="block", beside=beside)


FIGURE = Figure(
    title="Accuracy over timestep",
    reading="A line is one block, from blue (near the input) to orange (near the output); a peak away from 0 "
    "means that some noise brings out better features. Different schedules compare by σ or log-SNR.",
    study="features",
    views=views,
)
