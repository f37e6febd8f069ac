"""Storage of rows: each run has its own files, found by counting, so that several runs can write to one place.

    rows/SCHEMA.json               the schema's version
    rows/runs/NUMBER.json          the name of run NUMBER, counted from 1: claimed by one run only
    rows/RUN/PART.jsonl            its journal, one line per trial: one part on a disk; on an object store, which
                                   cannot append, a part every few seconds
    rows/RUN/TABLE.parquet         the same rows, once the run has ended
    rows/RUN/tables.json           rows, size and SHA-256 of each of its tables: written last, then the journal is
                                   removed
    EXPERIMENT/TABLE.parquet       the rows of one experiment, for people and for the report
    EXPERIMENT/about.json          size and SHA-256 of each of them, and what the page says of the data

Rows belong to a trial's key: if two runs recorded the same trial, a success wins over a failure, then the earliest
success, or the latest failure. Every JSON file and every line of a journal holds its own checksum. What is damaged is
named and left out, so that its trials are missing and run again. Listings are never relied on.
"""

import io
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import UserError
from harness.core.fingerprint import digest
from harness.core.rows import Outcome
from harness.core.sealed import older, sealed, unsealed
from harness.core.storage import Storage
from harness.core.tables import ABOUT, SCHEMA_VERSION, Table, check_schema_version

FLUSH_SECONDS = 5.0  # an outcome is written to an object store within this time
AT_ONCE = 32  # files of a counted sequence requested together; a gap this large ends it
OUTCOMES_AT_ONCE = 500  # converted to Arrow together


class RowStore:
    """All rows of a results folder, in the tables that the studies declare."""

    def __init__(self, storage: Storage, declared: Mapping[str, Table]) -> None:
        """`declared` are tables by name."""
        self.storage, self.declared = storage, declared
        self.damage: list[str] = []  # what `tables` left out the last time, one line each

    def check_version(self) -> None:
        """Raises `UserError` if the results here have another schema version."""
        content = self.storage.first_read("rows/SCHEMA.json")
        if content is None:
            return
        try:
            found = int((older(content) or unsealed(content))["schema_version"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise self._unreadable("rows/SCHEMA.json") from None
        check_schema_version(found, self.storage.describe())

    def tables(self) -> dict[str, pa.Table]:
        """Returns all recorded rows by table, including journals of dead and running sweeps."""
        self.check_version()
        self.damage = []
        runs = self._runs()
        ended = self._ended(runs)
        outcomes = {run: self._journal_of(run) for run in runs if run not in ended}
        ended |= self._ended([*outcomes])  # those that ended while their journals were read
        parts = self._parts(ended)
        tables: dict[str, pa.Table] = {}
        for name, declared in self.declared.items():
            rows = [
                row
                for run, found in outcomes.items()
                if run not in ended
                for outcome in found
                for row in outcome.tables.get(name, [])
            ]
            mine = [*parts[name], self._journalled(name, rows)]
            tables[name] = declared.adopted(pa.concat_tables(mine, promote_options="permissive"))
        return _one_outcome(tables)

    def _runs(self) -> list[str]:
        runs = []
        for path, content in self._counted("rows/runs/{:06d}.json"):
            try:
                runs.append(str((older(content) or unsealed(content))["run"]))
            except (ValueError, KeyError, TypeError):
                raise self._unreadable(path) from None
        return runs

    def _counted(self, pattern: str) -> Iterator[tuple[str, bytes]]:
        """Yields path and content of the files that `pattern` numbers from 1, up to a wide gap."""
        for begin in itertools.count(1, AT_ONCE):
            paths = [pattern.format(number) for number in range(begin, begin + AT_ONCE)]
            found = self.storage.read_many(paths)
            yield from (
                (path, content) for path, content in zip(paths, found, strict=True) if content is not None
            )
            if not any(content is not None for content in found):
                return

    def _ended(self, runs: list[str]) -> dict[str, dict[str, Any]]:
        """Returns size and checksum of each table, by run, for runs that have ended."""
        paths = [f"rows/{run}/tables.json" for run in runs]
        ended: dict[str, dict[str, Any]] = {}
        for run, path, content in zip(runs, paths, self.storage.read_many(paths), strict=True):
            if content is not None:
                try:
                    ended[run] = unsealed(content)["tables"]
                except (ValueError, KeyError):
                    ended[run] = {}
                    self._leave_out(path, f"the trials that only run {run} recorded")
        return ended

    def _leave_out(self, path: str, what: str) -> None:
        """Notes that a file is damaged."""
        self.damage.append(f"{self.storage.describe(path)} is damaged: {what} count as missing")

    def _journal_of(self, run: str) -> list[Outcome]:
        outcomes = []
        for path, content in self._counted(f"rows/{run}/{{:06d}}.jsonl"):
            *whole, last = content.decode("utf-8", errors="replace").split("\n")
            lost = 0
            for place, line in enumerate([*whole, last]):
                try:
                    outcomes.append(Outcome.from_json(line, self.storage.describe(path)))
                except (ValueError, KeyError, TypeError, AttributeError):
                    lost += place < len(whole)  # the last was being written when the process died
            if lost:
                self._leave_out(path, f"the trials of {lost} of its {len(whole)} lines")
        return outcomes

    def _journalled(self, name: str, rows: list[dict[str, Any]]) -> pa.Table:
        try:
            return self.declared[name].filled(rows)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            place = self.storage.describe("rows")
            raise UserError(
                f"{place}: a journal (*.jsonl) does not hold valid {name} rows: {error}; move it elsewhere"
            ) from None

    def _parts(self, ended: Mapping[str, Mapping[str, Any]]) -> dict[str, list[pa.Table]]:
        """Returns the tables of the runs that have ended, by name; a run with a damaged file is left out."""
        places = [
            (run, name, file) for run, files in ended.items() for name, file in files.items() if file["rows"]
        ]
        contents = self.storage.read_many([f"rows/{run}/{name}.parquet" for run, name, _ in places])
        damaged = set()
        for (run, name, file), content in zip(places, contents, strict=True):
            if content is None or digest(content) != {"bytes": file["bytes"], "sha256": file["sha256"]}:
                damaged.add(run)
                self._leave_out(
                    f"rows/{run}/{name}.parquet",
                    f"the trials that only this run recorded ({file['rows']} rows)",
                )
        parts: dict[str, list[pa.Table]] = {name: [] for name in self.declared}
        for (run, name, _), content in zip(places, contents, strict=True):
            if content is not None and run not in damaged and name in parts:
                parts[name].append(self._parsed(name, f"rows/{run}/{name}.parquet", content))
        return parts

    def _parsed(self, name: str, path: str, content: bytes) -> pa.Table:
        place = self.storage.describe(path)
        try:
            table = pq.read_table(io.BytesIO(content))
            if table.schema.metadata:
                check_schema_version(int(table.schema.metadata.get(b"harness_schema_version", 0)), place)
            pa.unify_schemas([self.declared[name].schema, table.schema], promote_options="permissive")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{place}: not a readable Parquet file with these rows: {error}") from None
        return table

    def _unreadable(self, path: str) -> UserError:
        return UserError(f"{self.storage.describe(path)}: not readable; restore or remove it")

    def begin(self) -> None:
        """Writes the schema version, by which other machines recognise the results folder."""
        if self.storage.first_read("rows/SCHEMA.json") is None:
            version = sealed({"schema_version": SCHEMA_VERSION}).encode()
            self.storage.write("rows/SCHEMA.json", version)

    def journal(self, run: str) -> "Journal":
        """Claims the next number for `run` and starts its journal."""
        self.begin()
        taken = [int(path[-11:-5]) for path, _ in self._counted("rows/runs/{:06d}.json")]
        number = max(taken, default=0) + 1
        while not self.storage.create(f"rows/runs/{number:06d}.json", sealed({"run": run}).encode()):
            number += 1
        return Journal(self.storage, run, self.declared)

    def write_experiment(
        self,
        experiment: str,
        keys: Iterable[str],
        tables: Mapping[str, pa.Table],
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Writes `EXPERIMENT/TABLE.parquet`: the rows of the trials `keys`, in their order.

        `about` is what the page says of the data: {"data": what was read, "warnings": traps, "sheets": pictures}.
        """
        order = {key: place for place, key in enumerate(keys)}
        files = {}
        for name, table in tables.items():
            places = np.array([order.get(key, -1) for key in table["key"].to_pylist()], np.int64)
            chosen = np.argsort(places, kind="stable")
            chosen = chosen[places[chosen] >= 0]
            content = _parquet(table.take(pa.array(chosen, pa.int64())))
            self.storage.write(f"{experiment}/{name}.parquet", content)
            files[f"{name}.parquet"] = digest(content)
        self.storage.write(f"{experiment}/{ABOUT}", sealed({"files": files, **about}, indent=1).encode())


class Journal:
    """Records the outcomes of one run as they arrive; nothing recorded is lost if the process dies."""

    def __init__(self, storage: Storage, run: str, declared: Mapping[str, Table]) -> None:
        self.storage = storage
        self.run = run
        self.declared = declared
        self._lines: list[str] = []
        self._written = 0  # how many of the lines have been stored
        self._parts = 0
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._file = None
        if storage.local is not None:
            self._parts = 1
            (storage.local / "rows" / run).mkdir(parents=True, exist_ok=True)
            self._file = open(storage.full(self._part(1)), "a", encoding="utf-8")  # noqa: SIM115

    def _part(self, number: int) -> str:
        return f"rows/{self.run}/{number:06d}.jsonl"

    def record(self, outcome: Outcome) -> None:
        """Appends an outcome: on a disk before this returns, on an object store within a few seconds."""
        line = outcome.to_json() + "\n"
        with self._lock:
            self._lines.append(line)  # first, or an interrupt below would leave it out of `compact`
            if self._file is None:
                self._flush_later()
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(FLUSH_SECONDS, self._flush_or_wait)
            self._timer.daemon = True
            self._timer.start()

    def _flush_or_wait(self) -> None:
        try:
            self.flush()
        except Exception:  # the store does not respond: the lines stay in memory until it does
            with self._lock:
                self._flush_later()

    def flush(self) -> None:
        """Writes the lines that an object store does not have yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._file is None and self._written < len(self._lines):
                self.storage.write(
                    self._part(self._parts + 1), "".join(self._lines[self._written :]).encode()
                )
                self._parts += 1
                self._written = len(self._lines)

    def compact(self) -> None:
        """Converts the journal to Parquet and removes it."""
        self.flush()
        if self._file is not None:
            self._file.close()
        files = {}
        for name, table in self._tables().items():
            if len(table):
                content = _parquet(table)
                files[name] = {"rows": len(table), **digest(content)}
                self.storage.write(f"rows/{self.run}/{name}.parquet", content)
        self.storage.write(f"rows/{self.run}/tables.json", sealed({"tables": files}, indent=1).encode())
        for number in range(1, self._parts + 1):
            self.storage.remove(self._part(number))

    def _tables(self) -> dict[str, pa.Table]:
        parts = {name: [declared.empty()] for name, declared in self.declared.items()}
        for begin in range(0, len(self._lines), OUTCOMES_AT_ONCE):
            outcomes = [Outcome.from_json(line) for line in self._lines[begin : begin + OUTCOMES_AT_ONCE]]
            for name, found in parts.items():
                rows = [row for one in outcomes for row in one.tables.get(name, [])]
                found.append(self.declared[name].filled(rows))
        return {name: pa.concat_tables(found) for name, found in parts.items()}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _one_outcome(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Keeps, for each key, the rows of one run: that of the earliest success, or else of the latest failure."""
    columns = ("key", "began_at", "run")
    outcomes = {
        name: list(zip(*(table[column].to_pylist() for column in columns), strict=True))
        for name, table in tables.items()
    }
    failed = {  # outcomes with a failed row
        outcome
        for name, table in tables.items()
        for outcome, status in zip(outcomes[name], table["status"].to_pylist(), strict=True)
        if status != "ok"
    }
    best: dict[str, tuple[bool, float, str]] = {}

    def rank(outcome: tuple[str, float, str]) -> tuple[bool, float, str]:
        _, began_at, run = outcome
        return (True, -began_at, run) if outcome in failed else (False, began_at, run)

    for outcome in itertools.chain.from_iterable(outcomes.values()):
        best[outcome[0]] = min(best.get(outcome[0], rank(outcome)), rank(outcome))
    return {
        name: table.filter(pa.array([best[one[0]] == rank(one) for one in outcomes[name]], pa.bool_()))
        for name, table in tables.items()
    }
