"""Rows and their pinned schema: what a sweep measured, recorded once, kept in Parquet.

    rows/SCHEMA.json                     the schema's version
    rows/RUN.jsonl                       the journal of a run: one line a trial, flushed as they come
    rows/TABLE/RUN.parquet               the same, compacted when the run ends
    EXPERIMENT/TABLE.parquet             the rows of one experiment, for people and for the report

Every run writes its own files, so several may write to one place. Rows belong to a trial's key: where two runs
recorded the same trial, a success stands before a failure, then the first before the second.
"""

import base64
import io
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import UserError
from harness.core.storage import Storage

SCHEMA_VERSION = 1
FLUSH_SECONDS = 5.0  # an outcome waits so long at most for an object store, which cannot append

COMMON = {
    "key": pa.string(),
    "status": pa.string(),  # "ok" or "failed"
    "error": pa.string(),  # the traceback of a failed trial
    "seconds": pa.float64(),
    "began_at": pa.float64(),  # seconds since 1970, UTC
    "schema_version": pa.int32(),
    "run": pa.string(),
    "seed": pa.int64(),
    "data": pa.string(),
    "data_fingerprint": pa.string(),
    "device": pa.string(),
    "harness_version": pa.string(),
    "code_commit": pa.string(),
    "code_dirty": pa.bool_(),
    "python_version": pa.string(),
    "ray_version": pa.string(),
    "torch_version": pa.string(),
    "diffusers_version": pa.string(),
    "numpy_version": pa.string(),
    "scikit_learn_version": pa.string(),
}
WHEN_AND_WHERE = ("seconds", "began_at", "run", "fit_seconds")  # columns that differ between two equal runs


def _estimate(name: str) -> dict[str, pa.DataType]:
    """Columns of an accuracy between 0 and 1 with its 95 % interval and the number of samples behind it."""
    return {
        name: pa.float64(),
        f"{name}_low": pa.float64(),
        f"{name}_high": pa.float64(),
        f"{name}_n": pa.int64(),
    }


def _summary(name: str) -> dict[str, pa.DataType]:
    """Columns for many networks' test accuracies: that of the best on validation, the mean and the median."""
    return {
        f"{name}_best_validation_accuracy": pa.float64(),
        **_estimate(f"{name}_best_accuracy"),
        f"{name}_mean_accuracy": pa.float64(),
        f"{name}_median_accuracy": pa.float64(),
        f"{name}_networks": pa.int64(),
    }


TABLES: dict[str, dict[str, pa.DataType]] = {
    # study 1: one row a probe
    "features": {
        "features": pa.string(),  # "trained", "untrained" or "pixels"
        "backbone": pa.string(),
        "block": pa.int64(),  # numbered from 1 along the network; null for pixels
        "block_name": pa.string(),
        "timestep": pa.int64(),  # 0 is least noise; null for pixels
        "pool": pa.int64(),  # pooled to pool x pool
        "head": pa.string(),
        "dimensions": pa.int64(),
        "regularisation": pa.float64(),  # chosen on validation; null for heads without
        "train_n": pa.int64(),
        **_estimate("validation_accuracy"),
        **_estimate("test_accuracy"),
        "fit_seconds": pa.float64(),
    },
    # study 2: one row a trial (a pool of k originals and what was generated from it)
    "weights": {
        "network": pa.string(),
        "parameters": pa.string(),  # names of the varied parameters
        "length": pa.int64(),  # how many numbers they are
        "k": pa.int64(),
        "subset": pa.string(),  # how the k were taken from the pool: first, strided, random
        **_summary("original"),
        **_estimate("ensemble_accuracy"),
        **_summary("generated"),
        **_summary("reconstructed"),
        "similarity_original": pa.float64(),  # mean IoU of wrong predictions, pairs of originals
        "similarity_generated": pa.float64(),
        "similarity_across": pa.float64(),  # pairs of a generated and an original network
        "reconstruction_error": pa.float64(),  # mean squared error on normalised parameters
        "generated_minus_original": pa.float64(),  # best against best, test accuracy
        "p_value": pa.float64(),  # exact McNemar test of that difference
    },
    # study 2: one row a network
    "networks": {
        "k": pa.int64(),
        "subset": pa.string(),
        "kind": pa.string(),  # original, ensemble, generated, reconstructed, noise, gaussian, average
        "setting": pa.float64(),  # noise: its scale; average: of how many; else null
        "index": pa.int64(),
        "selected": pa.bool_(),  # best of its kind and setting on validation
        **_estimate("validation_accuracy"),
        **_estimate("test_accuracy"),
        "max_similarity": pa.float64(),  # to the originals, itself excluded
        "distance": pa.float64(),  # to the nearest original, itself excluded; normalised parameters, RMS
    },
    # per-sample correctness on the test split, for paired tests
    "correctness": {
        "study": pa.string(),
        "kind": pa.string(),
        "setting": pa.float64(),
        "index": pa.int64(),
        "split": pa.string(),
        "correct": pa.list_(pa.bool_()),  # in the order of the split
    },
}


def schema(table: str) -> pa.Schema:
    """Returns the pinned schema of `table`."""
    return pa.schema(
        {**COMMON, **TABLES[table]}, metadata={"harness_schema_version": str(SCHEMA_VERSION), "table": table}
    )


@dataclass(frozen=True)
class Outcome:
    """What a trial ended in: its rows, by table."""

    key: str
    study: str
    failed: bool
    tables: Mapping[str, list[dict[str, Any]]]

    def to_json(self) -> str:
        """Returns one line of a journal."""
        tables = {name: [_packed(row) for row in rows] for name, rows in self.tables.items()}
        return json.dumps(
            {
                "v": SCHEMA_VERSION,
                "key": self.key,
                "study": self.study,
                "failed": self.failed,
                "tables": tables,
            }
        )

    @staticmethod
    def from_json(line: str, where: str = "a journal") -> "Outcome":
        """Reads one line of a journal; raises `ValueError` if it is not whole."""
        values = json.loads(line)
        check_schema_version(values["v"], where)
        tables = {name: [_unpacked(row) for row in rows] for name, rows in values["tables"].items()}
        return Outcome(values["key"], values["study"], values["failed"], tables)


def _packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turns NumPy numbers into Python's, NaN into null and arrays of booleans into base64."""
    packed: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            bits = base64.b64encode(np.packbits(value.astype(bool)).tobytes()).decode()
            packed[name] = {"bits": bits, "n": len(value)}
        else:
            value = value.item() if isinstance(value, np.generic) else value
            packed[name] = None if isinstance(value, float) and not np.isfinite(value) else value
    return packed


def _unpacked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: np.unpackbits(
            np.frombuffer(base64.b64decode(value["bits"]), np.uint8), count=value["n"]
        ).astype(bool)
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as an Arrow table of the pinned schema; a column that the schema lacks is a `KeyError`."""
    columns = schema(name)
    rows = list(rows)
    known = set(columns.names)
    for row in rows:
        if not known.issuperset(row):
            raise KeyError(f"table {name!r} has no column {sorted(set(row) - known)}")
    return pa.Table.from_pylist([{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=columns)


class RowStore:
    """All rows of one results folder, and the journal of the run that holds this object."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def check_version(self) -> None:
        """Raises `UserError` if a newer version of this software wrote here."""
        try:
            found = int(json.loads(self.storage.read("rows/SCHEMA.json"))["schema_version"])
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, OverflowError, IsADirectoryError):
            path = self.storage.describe("rows/SCHEMA.json")
            raise UserError(f"{path}: not readable; restore or remove it") from None
        except Exception as error:  # the first look at a store: no network, no permission, no bucket
            raise UserError(f"--results {self.storage.url}: cannot be read: {error}") from None
        check_schema_version(found, self.storage.describe())

    def tables(self) -> dict[str, pa.Table]:
        """Returns every row recorded, one table each, journals of dead and running sweeps included."""
        self.check_version()
        journals = {
            name: self._read_journal(name) for name in self.storage.names("rows") if name.endswith(".jsonl")
        }
        recorded = [outcome for outcomes in journals.values() for outcome in outcomes or []]
        # A run that died, or is at work, between its tables and its journal's end has both: its journal counts.
        twice = {
            name.removesuffix(".jsonl") + ".parquet" for name, found in journals.items() if found is not None
        }
        tables: dict[str, pa.Table] = {}
        for name in TABLES:
            files = [part for part in self.storage.names(f"rows/{name}") if part not in twice]
            parts = [self._read_part(f"rows/{name}/{part}") for part in files]
            rows = [row for outcome in recorded for row in outcome.tables.get(name, [])]
            parts = [*(part for part in parts if part is not None), self._journalled(name, rows)]
            tables[name] = pa.concat_tables(parts, promote_options="permissive").select(schema(name).names)
        return _first_success(tables)

    def _journalled(self, name: str, rows: list[dict[str, Any]]) -> pa.Table:
        try:
            return to_table(name, rows)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            place = self.storage.describe("rows")
            raise UserError(
                f"{place}: a journal (*.jsonl) holds no {name} rows: {error}; move it away"
            ) from None

    def _read_journal(self, name: str) -> list[Outcome] | None:
        """Returns what a journal holds, or None if it was compacted since it was listed."""
        try:
            content = self.storage.read(f"rows/{name}")
        except FileNotFoundError:
            return None
        outcomes = []
        for line in content.decode("utf-8", errors="replace").splitlines():
            try:
                outcomes.append(Outcome.from_json(line, self.storage.describe(f"rows/{name}")))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the line that was being written when the process died
        return outcomes

    def _read_part(self, path: str) -> pa.Table | None:
        if not path.endswith(".parquet"):
            return None
        try:
            table = pq.read_table(io.BytesIO(self.storage.read(path)))
            if table.schema.metadata:
                version = int(table.schema.metadata.get(b"harness_schema_version", 0))
                check_schema_version(version, self.storage.describe(path))
            pa.unify_schemas([schema(path.split("/")[1]), table.schema], promote_options="permissive")
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            place = self.storage.describe(path)
            raise UserError(f"{place}: not a readable Parquet file of these rows: {error}") from None
        return table

    def journal(self, run: str) -> "Journal":
        """Starts the journal of `run`."""
        if not self.storage.exists("rows/SCHEMA.json"):
            self.storage.write("rows/SCHEMA.json", json.dumps({"schema_version": SCHEMA_VERSION}).encode())
        return Journal(self.storage, run)

    def write_experiment(self, experiment: str, keys: Iterable[str], tables: Mapping[str, pa.Table]) -> None:
        """Writes `EXPERIMENT/TABLE.parquet`: the rows of the trials `keys`, in their order."""
        order = {key: place for place, key in enumerate(keys)}
        for name, table in tables.items():
            places = np.array([order.get(key, -1) for key in table["key"].to_pylist()], np.int64)
            chosen = np.argsort(places, kind="stable")
            chosen = chosen[places[chosen] >= 0]
            self.storage.write(
                f"{experiment}/{name}.parquet", _parquet(table.take(pa.array(chosen, pa.int64())))
            )


class Journal:
    """Records the outcomes of one run as they come; nothing recorded is lost when the process dies."""

    def __init__(self, storage: Storage, run: str) -> None:
        self.storage = storage
        self.run = run
        self.outcomes: list[Outcome] = []
        self._path = f"rows/{run}.jsonl"
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._file = None
        if storage.local is not None:
            (storage.local / "rows").mkdir(parents=True, exist_ok=True)
            self._file = open(storage.full(self._path), "a", encoding="utf-8")  # noqa: SIM115

    def record(self, outcome: Outcome) -> None:
        """Appends an outcome, on disk before this returns; on an object store within a few seconds."""
        line = outcome.to_json() + "\n"
        self.outcomes.append(Outcome.from_json(line))  # with null for what is missing, as a reader has it
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            return
        with self._lock:
            self._lines.append(line)
            if self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Writes what an object store does not have yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._file is None and self._lines:
                self.storage.write(self._path, "".join(self._lines).encode())

    def compact(self) -> None:
        """Turns the journal into Parquet and removes it."""
        self.flush()
        if self._file is not None:
            self._file.close()
        for name in TABLES:
            rows = [row for outcome in self.outcomes for row in outcome.tables.get(name, [])]
            if rows:
                self.storage.write(f"rows/{name}/{self.run}.parquet", _parquet(to_table(name, rows)))
        self.storage.remove(self._path)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def check_schema_version(found: int, where: str) -> None:
    """Raises `UserError` if `where` was written with a newer schema than this one."""
    if found > SCHEMA_VERSION:
        raise UserError(
            f"{where}: written with schema version {found}, this is version {SCHEMA_VERSION}; "
            "install a newer harness or choose another --results"
        )


def _first_success(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Keeps, for each key, the rows of the run that recorded it first, a success before any failure."""
    best: dict[str, tuple[bool, float, str]] = {}
    columns = ("key", "status", "began_at", "run")
    for table in tables.values():
        for key, status, began_at, run in zip(*(table[name].to_pylist() for name in columns), strict=True):
            rank = (status != "ok", began_at, run)
            best[key] = min(best.get(key, rank), rank)
    chosen = {}
    for name, table in tables.items():
        ranks = zip(*(table[name].to_pylist() for name in columns), strict=True)
        keep = [best[key] == (status != "ok", began_at, run) for key, status, began_at, run in ranks]
        chosen[name] = table.filter(pa.array(keep, pa.bool_()))
    return chosen
