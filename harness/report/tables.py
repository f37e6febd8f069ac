"""Reads one experiment's Parquet tables, with clear errors if that fails."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import UserError, did_you_mean
from harness.core.fingerprint import digest
from harness.core.sealed import unsealed
from harness.core.storage import Storage
from harness.core.tables import ABOUT, CORRECTNESS, Table, check_schema_version
from harness.report.setups import complete, setup

# Of probes on a backbone: what nulls are shown as; the last two are those of old rows
WITHOUT = {"regulariser": "none", "condition": "none", "noise": "fresh", "after": "output"}
ACCURACY, MEAN_AVERAGE_PRECISION = "accuracy", "mean_average_precision"  # columns of study 1
AGAIN = "run the same sweep again, which writes it anew"


class Tables(NamedTuple):
    """The rows of one experiment, as its studies declare them; a table that was not written has no rows.

    The built-in tables have properties, which raise `KeyError` where the table is not declared.
    """

    frames: Mapping[str, pd.DataFrame]  # all tables but `correctness`, by name, in the order of declaration
    correctness: pa.Table  # stays in Arrow: each row holds a list of booleans
    declared: Mapping[str, Table]
    data: tuple[str, ...] = ()  # what was read of the data sets
    warnings: tuple[str, ...] | None = None  # traps in the data sets; None if nobody looked
    sheets: tuple[Mapping[str, Any], ...] = ()  # pictures of the data sets' images by class

    @property
    def features(self) -> pd.DataFrame:
        """Study 1: classifiers on features."""
        return self.frames["features"]

    @property
    def similarity(self) -> pd.DataFrame:
        """Study 1: pairs of representations."""
        return self.frames["similarity"]

    @property
    def generation(self) -> pd.DataFrame:
        """Study 1: samples as an encoder sees them."""
        return self.frames["generation"]

    @property
    def weights(self) -> pd.DataFrame:
        """Study 2: trials, with the columns that `harness.report.setups.complete` adds."""
        return self.frames["weights"]

    @property
    def networks(self) -> pd.DataFrame:
        """Study 2: the networks of each trial, with their trial's set-up."""
        return self.frames["networks"]

    @property
    def results(self) -> list[str]:
        """Names of the tables with one row per result; the others hold details of these results."""
        return [name for name in self.frames if not self.declared[name].detail]

    def with_frames(self, **frames: pd.DataFrame) -> Self:
        """Returns the tables with some data frames replaced."""
        return self._replace(frames={**self.frames, **frames})


def read_tables(storage: Storage, experiment: str, declared: Mapping[str, Table]) -> Tables:
    """Returns the tables `EXPERIMENT/TABLE.parquet`: those `declared`, and others by the declarations in their files.

    Raises `UserError` if there are none (listing the experiments that exist), or if one is unreadable or was
    written with another schema version.
    """
    names = list(declared)
    if experiment:
        files = [
            name.removesuffix(".parquet") for name in storage.names(experiment) if name.endswith(".parquet")
        ]
        names += [name for name in files if name not in declared]
    contents = storage.read_many([f"{experiment}/{name}.parquet" for name in names]) if experiment else []
    written = {
        name: content
        for name, content in zip(names, contents, strict=False)
        if content is not None and (name in declared or _is_declared(content))
    }
    if not written:
        raise UserError(
            f"no tables of experiment {experiment!r} in {storage.describe()}; "
            f"{did_you_mean(experiment, experiments(storage))}"
        )
    tables, about = {}, _about(storage, experiment)
    for name, content in written.items():
        place = storage.describe(f"{experiment}/{name}.parquet")
        expected = about.files.get(f"{name}.parquet")
        if expected is not None and expected != digest(content):
            raise UserError(f"{place}: does not match its checksum; {AGAIN}")
        tables[name] = _read(content, place, declared.get(name))
    everything = {**{name: table.empty() for name, table in declared.items()}, **tables}
    found = None if about.warnings is None else tuple(about.warnings)
    return from_arrow(everything)._replace(data=tuple(about.data), warnings=found, sheets=tuple(about.sheets))


class _About(NamedTuple):
    """What a sweep wrote about an experiment's tables."""

    files: Mapping[str, Mapping[str, Any]]  # size and SHA-256 by file name
    data: Sequence[str]
    warnings: Sequence[str] | None
    sheets: Sequence[Mapping[str, Any]] = ()


def _about(storage: Storage, experiment: str) -> _About:
    """Reads `about.json`, empty if there is none; raises `UserError` if it is damaged."""
    [content] = storage.read_many([f"{experiment}/{ABOUT}"])
    if content is None:
        return _About({}, [], None)
    try:
        found = unsealed(content)
        return _About(found["files"], found.get("data", []), found.get("warnings"), found.get("sheets", []))
    except (ValueError, KeyError):
        raise UserError(f"{storage.describe(f'{experiment}/{ABOUT}')}: is damaged; {AGAIN}") from None


def from_arrow(tables: dict[str, pa.Table]) -> Tables:
    """Converts Arrow tables, each with its declaration in its schema, to what figures take.

    Networks get their trial's set-up; nulls of the set-up become words; classifiers of study 1 get the columns that
    `_add_scores` describes.
    """
    declared = {name: Table.of(table.schema) for name, table in tables.items()}
    frames = {name: table.to_pandas() for name, table in tables.items() if name != "correctness"}
    if {"weights", "networks"} <= frames.keys():
        complete(frames["weights"], frames["networks"], setup(declared["weights"]))
    _tell_data_apart(frames)
    if "features" in frames:
        features = frames["features"]
        kind, caching = features["features"], features["caching"].dropna().unique()
        for column, value in WITHOUT.items():
            _fill(features, column, value, kind != "pixels")
        _fill(features, "tuning", "all", kind == "finetuned")  # of old rows
        only = caching[0] if len(caching) == 1 else "cached"  # for old or failed rows
        _fill(features, "caching", only, ~kind.isin(["pixels", "finetuned"]))
        _add_scores(features)
    if "generation" in frames:
        for column in ("regulariser", "condition"):
            _fill(frames["generation"], column, WITHOUT[column])
    return Tables(frames, tables.get("correctness", CORRECTNESS.empty()), declared)


def _add_scores(frame: pd.DataFrame) -> None:
    """Adds to classifiers `validation_score` and `test_score`, with intervals, and their `measure`, in place.

    The measure is mAP where that was measured, since images have several labels there, else accuracy; null where
    neither was.
    """
    mean_ap, accuracy = (
        frame[name].notna() if (name := f"validation_{one}") in frame else pd.Series(False, frame.index)
        for one in (MEAN_AVERAGE_PRECISION, ACCURACY)
    )
    frame["measure"] = pd.Series(None, frame.index, object).mask(accuracy, "accuracy").mask(mean_ap, "mAP")
    for split in ("validation", "test"):
        for end in ("", "_low", "_high", "_n"):
            score = frame[f"{split}_{ACCURACY}{end}"]
            if mean_ap.any():
                score = score.mask(mean_ap, frame[f"{split}_{MEAN_AVERAGE_PRECISION}{end}"])
            frame[f"{split}_score{end}"] = score


def measure_of(rows: pd.DataFrame) -> str:
    """Returns what the scores of classifiers are, as figures and sentences call it: "accuracy", "mAP" or both."""
    return " or ".join(sorted(rows["measure"].dropna().unique())) or "accuracy"


def _fill(frame: pd.DataFrame, column: str, value: str, where: pd.Series | bool = True) -> None:
    """Replaces nulls of a column, in place."""
    frame[column] = frame[column].astype(object).mask(frame[column].isna() & where, value)


def _tell_data_apart(frames: dict[str, pd.DataFrame]) -> None:
    """Appends the beginning of the fingerprint to the names of different data sets that share a name."""
    both = ["data", "data_fingerprint"]
    parts = [frame[both] for frame in frames.values()]
    if not parts:
        return
    pairs = pd.concat(parts).dropna().drop_duplicates()
    shared = set(pairs["data"][pairs["data"].duplicated()])
    for frame in frames.values() if shared else ():
        mine = frame["data"].isin(shared) & frame["data_fingerprint"].notna()
        frame["data"] = frame["data"].mask(mine, frame["data"] + " " + frame["data_fingerprint"].str[:6])


def best_row(frame: pd.DataFrame, column: str) -> Any:
    """Returns the first row with the highest value of `column`, None if it has no values."""
    values = frame[column].to_numpy(float)
    return frame.iloc[int(np.nanargmax(values))] if np.isfinite(values).any() else None


def experiments(storage: Storage) -> list[str]:
    """Returns the names of the experiments with tables in the results folder."""
    return [
        name for name in storage.names("") if any(one.endswith(".parquet") for one in storage.names(name))
    ]


def _is_declared(content: bytes) -> bool:
    """Returns whether a file holds a table with its declaration: other Parquet files are the user's own."""
    try:
        Table.of(pq.read_schema(io.BytesIO(content)))
    except (pa.ArrowException, OSError, ValueError):
        return False
    return True


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
