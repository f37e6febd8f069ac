"""Where the numbers come from: runs, code, libraries, device, data; how to read the tables oneself."""

import time
from typing import NamedTuple

import pandas as pd

from harness.core.tables import COMMON
from harness.report.failures import RESULTS
from harness.report.tables import Tables
from harness.report.words import escape, heads, plain, seconds, several, table

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
SQL = "SELECT * FROM 'features.parquet' WHERE status = 'ok' ORDER BY validation_accuracy DESC"


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
    """Returns the common columns of the tables with a row per result."""
    common = [column.name for column in COMMON]
    parts = [frame[common] for frame in (getattr(tables, name) for name in RESULTS) if len(frame)]
    return pd.concat(parts, ignore_index=True) if parts else tables.features[common]


def runs(frame: pd.DataFrame) -> list[Run]:
    """Returns the runs behind the rows, the first first."""
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


def moment(at: float | None) -> str:
    """Returns seconds since 1970 as a date and time in UTC."""
    return plain(None) if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def to_html(tables: Tables) -> str:
    """Returns the section's content."""
    frame = rows_of_trials(tables)
    items = "".join(f"<dt>{_title(column)}</dt><dd>{_values(frame[column])}</dd>" for column in SHARED)
    return f'<dl class="facts">{items}</dl>{_runs_table(runs(frame))}{_reading()}'


def _title(column: str) -> str:
    return TITLES.get(column, column.replace("_", " ").capitalize())


def _values(column: pd.Series) -> str:
    counts = column.map(_shown).value_counts()
    parts = [
        f"<code>{escape(value)}</code>" + (f" ({several(int(count), 'row')})" if len(counts) > 1 else "")
        for value, count in counts.head(MOST_VALUES).items()
    ]
    more = f" and {len(counts) - MOST_VALUES:,} more" if len(counts) > MOST_VALUES else ""
    return ", ".join(parts) + more if parts else plain(None)


def _shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else plain(value)


def _runs_table(found: list[Run]) -> str:
    titles = ["Run", "Commit", "Uncommitted changes", "Rows", "Failed", "Began", "Ended", "Computing time"]
    rows = (
        "".join(
            f"<td>{text}</td>"
            for text in (
                f"<code>{escape(run.run)}</code>",
                f"<code>{escape(run.commit[:10])}</code>",
                plain(None) if run.dirty is None else _shown(run.dirty),
                f"{run.rows:,}",
                f"{run.failed:,}",
                moment(run.began),
                moment(run.ended),
                seconds(run.busy),
            )
        )
        for run in found
    )
    return table(several(len(found), "run"), heads(titles, words=titles[:3]), rows, dense=True)


def _reading() -> str:
    lines = {
        "pandas": 'pandas.read_parquet("features.parquet").query("status == \'ok\'")',
        "DuckDB": f'duckdb.sql("{SQL}")',
        "polars": 'polars.read_parquet("features.parquet").filter(polars.col("status") == "ok")',
    }
    items = "".join(f"<dt>{name}</dt><dd><code>{escape(line)}</code></dd>" for name, line in lines.items())
    return (
        "<h3>Read the tables yourself</h3><p>They lie beside this page: <code>features</code>, "
        "<code>similarity</code>, <code>generation</code>, <code>weights</code>, <code>networks</code> "
        "and <code>correctness</code>, each "
        f'<code>.parquet</code>; accuracies in them run from 0 to 1.</p><dl class="facts code">{items}</dl>'
    )
