"""Study 1's rows as its figures take them: which kinds of features there are, and what tells rows apart."""

import pandas as pd

from harness.report.figures.figure import succeeded
from harness.report.tables import Tables

AXES = ("block", "timestep", "pool", "head")
WHAT = (
    "data",
    "backbone",
    "regulariser",
    "caching",
)  # beside the axes; rows that differ in them are not averaged
ESTIMATES = [
    f"{split}_accuracy{end}" for split in ("validation", "test") for end in ("", "_low", "_high", "_n")
]
COLUMNS = ["features", *WHAT, *AXES, "block_name", "sigma", "log_snr", "parameter_count", *ESTIMATES]
COLUMNS += ["seed", "began_at", "train_n", "image_passes"]  # and no others: each costs at every selection
NO_PROBES = "No probe on a trained backbone's features has a validation accuracy."


def known(tables: Tables, *kinds: str) -> pd.DataFrame:
    """Returns the rows of these kinds of features that have a validation accuracy; of all kinds if none is given."""
    frame = succeeded(tables.features)[COLUMNS].dropna(subset=["validation_accuracy"])
    return frame[frame["features"].isin(kinds)] if kinds else frame


def highest(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns the row with the highest validation accuracy of each combination of values of `by`, in their order."""
    best = frame.sort_values("validation_accuracy", ascending=False, kind="stable").drop_duplicates(by)
    return best.sort_values(by, kind="stable")
