"""Tables of a sweep, as tests compare them."""

import pandas as pd

from harness.core.row_store import RowStore
from harness.core.storage import Storage
from harness.core.tables import WHEN_AND_WHERE
from harness.sweep import studies


def rows(results, experiment="tiny"):
    """Returns every table of an experiment, without the columns that say when and where a row was made."""
    tables = {name: pd.read_parquet(results / experiment / f"{name}.parquet") for name in studies.tables()}
    return {name: table.drop(columns=list(WHEN_AND_WHERE), errors="ignore") for name, table in tables.items()}


ELSEWHERE = ("similarity", "generation")  # tables of studies that the small experiment does not have


def assert_equal(first, second):
    """Checks that two sweeps measured the same, bit for bit."""
    for name in studies.tables():
        assert len(first[name]) or name in ELSEWHERE
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)


def recordings(results):
    """Returns how often each trial was recorded as done, over all runs, before duplicates are dropped."""
    store = RowStore(Storage(str(results)), studies.tables())
    runs = store._runs()
    ended = store._ended(runs)
    keys = [one.key for run in runs if run not in ended for one in store._journal_of(run) if not one.failed]
    for table in ("features", "weights"):
        for part in store._parts(ended)[table]:
            keys += [
                key
                for key, status in zip(part["key"].to_pylist(), part["status"].to_pylist(), strict=True)
                if status == "ok"
            ]
    return pd.Series(keys).value_counts()
