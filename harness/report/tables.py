"""Reads one experiment's Parquet tables; says what is wrong where they cannot be read."""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import UserError, did_you_mean
from harness.core.storage import Storage
from harness.core.tables import Table, check_schema_version
from harness.report.setups import complete

AGAIN = "remove it and run the sweep again"


class Tables(NamedTuple):
    """The rows of one experiment, as its studies declare them; a table that was not written has no rows."""

    features: pd.DataFrame
    similarity: pd.DataFrame
    generation: pd.DataFrame
    weights: pd.DataFrame
    networks: pd.DataFrame
    correctness: pa.Table  # stays in Arrow: a list of booleans a row
    others: dict[str, pd.DataFrame]  # of studies that the page knows by their declarations alone
    declared: dict[str, Table]

    def __getattr__(self, name: str) -> pd.DataFrame:
        """Returns another study's table."""
        if name in self.others:
            return self.others[name]
        raise AttributeError(name)


def read_tables(storage: Storage, experiment: str, declared: Mapping[str, Table]) -> Tables:
    """Returns the tables `EXPERIMENT/TABLE.parquet`: those `declared`, and others by what their files declare.

    Raises `UserError` if there are none (with the experiments that exist), or if one is not readable or was
    written with another schema.
    """
    names = list(declared)
    if experiment:
        files = [
            name.removesuffix(".parquet") for name in storage.names(experiment) if name.endswith(".parquet")
        ]
        names += [name for name in files if name not in declared]
    contents = storage.read_many([f"{experiment}/{name}.parquet" for name in names]) if experiment else []
    written = {name: content for name, content in zip(names, contents, strict=False) if content is not None}
    if not written:
        raise UserError(
            f"no tables of experiment {experiment!r} in {storage.describe()}; "
            f"{did_you_mean(experiment, experiments(storage))}"
        )
    tables = {
        name: _read(content, storage.describe(f"{experiment}/{name}.parquet"), declared.get(name))
        for name, content in written.items()
    }
    return from_arrow({**{name: table.empty() for name, table in declared.items()}, **tables})


def from_arrow(tables: dict[str, pa.Table]) -> Tables:
    """Returns Arrow tables, each with its declaration in its schema, as figures take them.

    Networks know their trial's setup; a null regulariser is called "none".
    """
    frames = {name: table.to_pandas() for name, table in tables.items() if name != "correctness"}
    complete(frames["weights"], frames["networks"])
    _tell_data_apart(frames)
    features, generation = frames["features"], frames["generation"]
    on_network, probed = (
        ~features["features"].isin(kinds) for kinds in (["pixels"], ["pixels", "finetuned"])
    )
    ways = features["caching"].dropna().unique()
    for frame, column, unsaid, where in (
        (features, "regulariser", "none", on_network),
        (features, "caching", ways[0] if len(ways) == 1 else "cached", probed),  # old or failed rows
        (generation, "regulariser", "none", True),
    ):
        frame[column] = frame[column].astype(object).mask(frame[column].isna() & where, unsaid)
    own = {name: frames.pop(name) for name in Tables._fields if name in frames}
    declared = {name: Table.of(table.schema) for name, table in tables.items()}
    return Tables(**own, correctness=tables["correctness"], others=frames, declared=declared)


def _tell_data_apart(frames: dict[str, pd.DataFrame]) -> None:
    """Names data sets of one name that differ, such as two folders, by the beginning of their fingerprint too."""
    both = ["data", "data_fingerprint"]
    pairs = pd.concat([frame[both] for frame in frames.values()]).dropna().drop_duplicates()
    shared = set(pairs["data"][pairs["data"].duplicated()])
    for frame in frames.values() if shared else ():
        mine = frame["data"].isin(shared) & frame["data_fingerprint"].notna()
        frame["data"] = frame["data"].mask(mine, frame["data"] + " " + frame["data_fingerprint"].str[:6])


def best_row(frame: pd.DataFrame, column: str) -> Any:
    """Returns the first row with the highest value of `column`, None if it has no value at all."""
    values = frame[column].to_numpy(float)
    return frame.iloc[int(np.nanargmax(values))] if np.isfinite(values).any() else None


def experiments(storage: Storage) -> list[str]:
    """Returns the names of the experiments that left tables in the results folder."""
    return [
        name for name in storage.names("") if any(one.endswith(".parquet") for one in storage.names(name))
    ]


def _read(content: bytes, where: str, declared: Table | None) -> pa.Table:
    try:
        table = pq.read_table(io.BytesIO(content))
        version = int((table.schema.metadata or {}).get(b"harness_schema_version", 0))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where}: not a readable table ({error}); {AGAIN}") from None
    check_schema_version(version, where)
    try:
        pinned = (declared or Table.of(table.schema)).schema
        known = table.select([column for column in pinned.names if column in table.column_names])
        whole = pa.concat_tables([pinned.empty_table(), known], promote_options="permissive")
        return whole.select(pinned.names).cast(pinned)
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{where}: not a table of results ({error}); {AGAIN}") from None
