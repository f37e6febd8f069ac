"""What did not work: failed trials with their tracebacks, missing numbers, counted."""

from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from harness.report.rendering import render
from harness.report.tables import Tables

PROBE = ("regulariser", "caching", "block", "block_name", "timestep")
COMPARED = ("model", "block", "block_name", "timestep", "pool")
RESULTS = ("features", "similarity", "generation", "weights")  # tables with a row per result
AXES = {
    "features": ("data", "features", "backbone", *PROBE, "pool", "head", "seed"),
    "similarity": ("data", *(f"{side}_{name}" for side in "ab" for name in COMPARED), "seed"),
    "generation": ("data", "backbone", "regulariser", "encoder", "sampler", "steps", "seed"),
    "weights": ("data", "network", "parameters", "preset", "varied", "k", "subset", "seed", "generator"),
    "networks": ("data", "kind", "setting", "index", "k", "subset", "seed", "generator"),
}
COUNTED = {
    "features": ("validation_accuracy", "test_accuracy"),
    "similarity": ("cka",),
    "generation": ("frechet", "frechet_real", "kernel"),
    "weights": (
        "original_best_accuracy",
        "ensemble_accuracy",
        "generated_best_accuracy",
        "generated_minus_original",
        "p_value",
    ),
    "networks": ("validation_accuracy", "test_accuracy", "max_similarity", "distance"),
}
MOST_TRACEBACKS = 100  # different ones shown whole; a page of megabytes helps nobody
LONGEST_LINE = 300  # characters
LONGEST_TRACEBACK = 20_000  # characters, the last ones


class Failure(NamedTuple):
    """Failed rows that ended in the same traceback."""

    table: str
    error: str
    columns: list[str]
    rows: list[list[Any]]

    @property
    def last_line(self) -> str:
        """What went wrong, in one line: the end of the traceback."""
        return self.error.strip().rsplit("\n", 1)[-1][:LONGEST_LINE]


class Missing(NamedTuple):
    """How many rows of trials that succeeded lack a number."""

    table: str
    column: str
    missing: int
    rows: int


def failures(tables: Tables) -> list[Failure]:
    """Returns every failed row, those with the same traceback together, the most frequent first."""
    found = []
    for name, axes in AXES.items():
        frame: pd.DataFrame = getattr(tables, name)
        failed = frame[frame["status"] == "failed"]
        columns = [axis for axis in axes if failed[axis].notna().any()]
        errors = failed["error"].fillna("no traceback was recorded")
        for error, rows in failed.groupby(errors, sort=False):
            found.append(Failure(name, str(error), columns, rows[columns].astype(object).to_numpy().tolist()))
    return sorted(found, key=lambda failure: -len(failure.rows))


def missing(tables: Tables) -> list[Missing]:
    """Returns the columns with gaps among the rows of trials that succeeded."""
    found = []
    for name, columns in COUNTED.items():
        frame: pd.DataFrame = getattr(tables, name)
        frame = frame[frame["status"] == "ok"]
        for column in columns:
            asked = frame
            if (name, column) == ("features", "test_accuracy"):
                asked = frame[frame["features"] != "screen"]  # a screen leaves the test images alone
            if (name, column) == ("networks", "distance"):
                asked = frame[frame["kind"] != "vote"]  # a vote has no parameters of its own
            count = int(asked[column].isna().sum())
            if count:
                found.append(Missing(name, column, count, len(asked)))
    return found


def to_html(tables: Tables) -> Markup:
    """Returns the section's content."""
    found = failures(tables)
    return render(
        "failures.html",
        failures=found,
        failed=sum(len(failure.rows) for failure in found),
        total=sum(len(getattr(tables, name)) for name in RESULTS),
        missing=missing(tables),
        succeeded=any((getattr(tables, name)["status"] == "ok").any() for name in COUNTED),
        most_tracebacks=MOST_TRACEBACKS,
        longest_traceback=LONGEST_TRACEBACK,
    )
