"""Where the numbers come from: runs, code, libraries, device, data; how to read the tables yourself."""

from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from harness.core.tables import COMMON, Role
from harness.report.rendering import render
from harness.report.tables import Tables
from harness.report.words import plain, yes_or_no

SHARED = (
    "data",
    "data_fingerprint",
    "seed",
    "device",
    "code_commit",
    "code_dirty",
    *(column.name for column in COMMON if column.name.endswith("_version")),
)
TITLES = {
    "code_dirty": "Uncommitted changes",
    "scikit_learn_version": "scikit-learn version",
    "numpy_version": "NumPy version",
}
MOST_VALUES = 12


class Fact(NamedTuple):
    """The values of one column, each with its number of rows, the most frequent first."""

    title: str
    counts: list[tuple[str, int]]
    more: int  # values not listed


class Run(NamedTuple):
    """One run of a sweep: its rows, when it ran, and the computing time of its trials in seconds."""

    run: str
    commit: str
    dirty: bool | None
    rows: int
    failed: int
    began: float | None
    ended: float | None
    busy: float


def rows_of_trials(tables: Tables) -> pd.DataFrame:
    """Returns the common columns of all tables of results."""
    common = [column.name for column in COMMON]
    parts = [frame[common] for frame in (tables.frames[name] for name in tables.results) if len(frame)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=common)


def runs(frame: pd.DataFrame) -> list[Run]:
    """Returns the runs that computed the rows, in order of time."""
    found = []
    for run, rows in frame.groupby("run", dropna=False):
        once = rows.drop_duplicates("key")  # several rows of a trial repeat its time
        ends = (once["began_at"] + once["seconds"].fillna(0)).max()
        dirty = rows["code_dirty"].dropna()
        found.append(
            Run(
                run=plain(run),
                commit=plain(rows["code_commit"].iloc[0]),
                dirty=bool(dirty.any()) if len(dirty) else None,
                rows=len(rows),
                failed=int((rows["status"] == "failed").sum()),
                began=None if once["began_at"].isna().all() else float(once["began_at"].min()),
                ended=None if pd.isna(ends) else float(ends),
                busy=float(once["seconds"].sum()),
            )
        )
    return sorted(found, key=lambda run: (run.began is None, run.began or 0.0))


def facts(frame: pd.DataFrame) -> list[Fact]:
    """Returns what the rows have in common, column by column."""
    return [_fact(column, frame[column]) for column in SHARED]


def _fact(name: str, column: pd.Series) -> Fact:
    counts = column.map(_shown).value_counts()
    title = TITLES.get(name, name.replace("_", " ").capitalize())
    listed = [(str(value), int(count)) for value, count in counts.head(MOST_VALUES).items()]
    return Fact(title, listed, max(0, len(counts) - MOST_VALUES))


def _shown(value: object) -> str:
    return yes_or_no(value) if isinstance(value, bool) else plain(value)


def to_html(tables: Tables) -> Markup:
    """Returns the section's content."""
    frame = rows_of_trials(tables)
    table, column = _example(tables)
    return render(
        "provenance.html",
        facts=facts(frame),
        runs=runs(frame),
        tables=[*tables.frames, "correctness"],
        table=table,
        column=column,
    )


def _example(tables: Tables) -> tuple[str, str]:
    """Returns a table of results (one with rows, if any has) and a column to sort it by."""
    names = sorted(tables.results, key=lambda name: not len(tables.frames[name]))
    if not names:
        return "correctness", "key"
    metrics = [column.name for column in tables.declared[names[0]].columns if column.role is Role.METRIC]
    expected = [column.name for column in tables.declared[names[0]].columns if column.expected]
    return names[0], (expected or metrics or ["key"])[0]
