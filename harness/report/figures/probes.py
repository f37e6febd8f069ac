"""Study 1's rows in the form that its figures need: kinds of features, and what distinguishes rows."""

from typing import NamedTuple

import pandas as pd

from harness.core.tables import Role
from harness.report.figures.figure import succeeded
from harness.report.tables import Tables

ESTIMATES = [f"{split}_score{end}" for split in ("validation", "test") for end in ("", "_low", "_high", "_n")]
MEASURED = ["measure", "block_name", "tuning", "sigma", "log_snr", "parameter_count", *ESTIMATES]
MEASURED += [
    "seed",
    "began_at",
    "train_n",
    "image_passes",
]  # only what figures use: each costs at every selection
NO_PROBES = "No probe on a trained backbone's features has a validation accuracy."


class Columns(NamedTuple):
    """The columns that distinguish results of study 1, as the table `features` declares them."""

    setup: list[str]  # apart from the data set; rows that differ in these are not averaged
    axes: list[str]

    @property
    def what(self) -> list[str]:
        """The data set and the set-up."""
        return ["data", *self.setup]

    @property
    def setting(self) -> list[str]:
        """The set-up and the axes."""
        return [*self.setup, *self.axes]


def columns(tables: Tables) -> Columns:
    """Returns the set-up columns and the axes of study 1."""
    declared = tables.declared["features"]
    return Columns(declared.names(Role.SETUP), declared.names(Role.AXIS))


def known(tables: Tables, *kinds: str) -> pd.DataFrame:
    """Returns the rows of these kinds of features that have a score on validation; of all kinds if none is given."""
    return rows_of(tables, *kinds).dropna(subset=["validation_score"])


def rows_of(tables: Tables, *kinds: str) -> pd.DataFrame:
    """Returns the rows of trials of these kinds of features that succeeded; of all kinds if none is given."""
    own = columns(tables)
    frame = succeeded(tables.features)[["features", *own.what, *own.axes, *MEASURED]]
    return frame[frame["features"].isin(kinds)] if kinds else frame


def highest(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns the row with the highest score on validation of each combination of values of `by`, in their order."""
    best = frame.sort_values("validation_score", ascending=False, kind="stable").drop_duplicates(by)
    return best.sort_values(by, kind="stable")
