"""Tables of a sweep, as tests compare them."""

import pandas as pd

from harness.core.rows import TABLES, WHEN_AND_WHERE, RowStore
from harness.core.storage import Storage


def rows(results, experiment="tiny"):
    """Returns every table of an experiment, without the columns that say when and where a row was made."""
    tables = {name: pd.read_parquet(results / experiment / f"{name}.parquet") for name in TABLES}
    return {name: table.drop(columns=list(WHEN_AND_WHERE), errors="ignore") for name, table in tables.items()}


def assert_equal(first, second):
    """Checks that two sweeps measured the same, bit for bit."""
    for name in TABLES:
        assert len(first[name])
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)


def recordings(results):
    """Returns how often each trial was recorded as done, over all runs, before duplicates are dropped."""
    store = RowStore(Storage(str(results)))
    names = [name for name in store.storage.names("rows") if name.endswith(".jsonl")]
    keys = [outcome.key for name in names for outcome in store._read_journal(name) if not outcome.failed]
    for table in ("features", "weights"):
        for part in (results / "rows" / table).glob("*.parquet"):
            frame = pd.read_parquet(part)
            keys += list(frame.key[frame.status == "ok"])
    return pd.Series(keys).value_counts()
