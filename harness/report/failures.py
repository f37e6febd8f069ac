"""What did not work: failed trials with their tracebacks, and counts of missing numbers."""

from typing import Any, NamedTuple

from markupsafe import Markup

from harness.core.tables import Role
from harness.report.figures.figure import succeeded
from harness.report.rendering import render
from harness.report.tables import Tables

MOST_TRACEBACKS = 100  # different ones shown in full; a page of megabytes helps nobody
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
    """Returns all failed rows, grouped by traceback, the most frequent first."""
    found = []
    for name, frame in tables.frames.items():
        failed = frame[frame["status"] == "failed"]
        own = tables.declared[name].names(Role.IDENTITY, Role.SETUP, Role.AXIS)
        columns = [column for column in ("data", *own, "seed") if failed[column].notna().any()]
        errors = failed["error"].fillna("no traceback was recorded")
        for error, rows in failed.groupby(errors, sort=False):
            found.append(Failure(name, str(error), columns, rows[columns].astype(object).to_numpy().tolist()))
    return sorted(found, key=lambda failure: -len(failure.rows))


def missing(tables: Tables) -> list[Missing]:
    """Returns the columns with gaps among the rows of trials that succeeded."""
    found = []
    for name, frame in tables.frames.items():
        frame = succeeded(frame)
        for column in (column.name for column in tables.declared[name].columns if column.expected):
            expected = frame
            if name == "features":  # a frequency trial classifies nothing, a screen no test images
                without = ["frequency"] if column != "test_accuracy" else ["frequency", "screen"]
                expected = frame[~frame["features"].isin(without)]
            if name == "features" and column.endswith("_accuracy"):
                expected = expected[expected["measure"] != "mAP"]  # has no accuracy
            if (name, column) == ("networks", "distance"):
                expected = frame[frame["kind"] != "vote"]  # a vote has no parameters
            count = int(expected[column].isna().sum())
            if count:
                found.append(Missing(name, column, count, len(expected)))
    return found


def to_html(tables: Tables) -> Markup:
    """Returns the section's content."""
    found = failures(tables)
    return render(
        "failures.html",
        failures=found,
        failed=sum(len(failure.rows) for failure in found),
        total=sum(len(tables.frames[name]) for name in tables.results),
        missing=missing(tables),
        succeeded=any(len(succeeded(frame)) for frame in tables.frames.values()),
        most_tracebacks=MOST_TRACEBACKS,
        longest_traceback=LONGEST_TRACEBACK,
    )
