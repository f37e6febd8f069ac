"""Validation accuracy over block, a line per timestep, and over timestep or its noise level, a line per block."""

from functools import partial

import pandas as pd

from harness.report.figures.figure import Figure
from harness.report.figures.lines import Curve, along, published_curve
from harness.report.published import NAME, log_snr, of_figure, same_blocks, sigma
from harness.report.words import plain


def published_over_block(rows: pd.DataFrame, choice: dict[str, str], axis: str) -> list[Curve]:
    """Returns the published lines (linear, pool 1) for a network whose blocks are numbered as ADM's."""
    if not _as_published(choice) or not same_blocks(rows):
        return []
    found = of_figure("block").groupby("timestep")
    return [published_curve(f"{NAME}, timestep {plain(t)}", lines, axis) for t, lines in found]


def published_over_timestep(rows: pd.DataFrame, choice: dict[str, str], axis: str) -> list[Curve]:
    """Returns the published line (linear, pool 1, ADM's middle block)."""
    if not _as_published(choice):
        return []
    line = of_figure("timestep")
    line = line.assign(sigma=line["timestep"].map(sigma), log_snr=line["timestep"].map(log_snr))
    return [published_curve(f"{NAME}, block 19 (middle)", line, axis)]


def _as_published(choice: dict[str, str]) -> bool:
    return (choice["pool"], choice["head"]) == ("1", "linear")


BLOCK = Figure(
    title="{Measure} over block",
    reading="Each line is one timestep, from blue (little noise) to orange (much noise); dashed grey lines are the "
    "controls at their best on validation: the same network untrained, and raw pixels.",
    study="features",
    views=partial(along, x="block", by="timestep", beside=published_over_block),
)
TIMESTEP = Figure(
    title="{Measure} over timestep",
    reading="Each line is one block, from blue (near the input) to orange (near the output); a peak away from 0 "
    "means that some noise gives better features. Use σ or log-SNR to compare different schedules.",
    study="features",
    views=partial(along, x="timestep", by="block", beside=published_over_timestep),
)
