"""The index of a data set: what is known of every image without decoding it.

It is made in parallel and kept on this machine. A part whose files have the same names, sizes and times is not read
again, unless everything is to be verified.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.cache import cache_folder
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.sealed import sealed, unsealed
from harness.core.storage import Storage
from harness.data.config import READ_BY_SOME, DataConfig
from harness.data.decoding import look
from harness.data.parallel import one_by_one
from harness.data.source import Part, Source
from harness.data.splits import SPLITS

VERSION = 3  # raise it if other things are recorded, or the same things differently
FEWEST = 16  # parts below which no processes are started
SCHEMA = pa.schema(
    {
        "number": pa.int64(),  # the label as a number, -1 if it has none
        "name": pa.dictionary(pa.int32(), pa.string()),  # the label as a name, null if it is none
        "several": pa.dictionary(pa.int32(), pa.string()),  # a list of labels, as JSON; null for one or none
        "split": pa.int8(),  # the place in `SPLITS`, -1 for none
        "digest": pa.binary(16),  # of the encoded bytes
        "size": pa.int64(),  # bytes
        "width": pa.int32(),  # as displayed
        "height": pa.int32(),
        "grey": pa.bool_(),
        "level": pa.float32(),  # the largest grey level of a deep image, NaN of others
        "floats": pa.bool_(),
        "error": pa.dictionary(pa.int32(), pa.string()),  # why it cannot be read, empty if it can
    }
)


class Index:
    """Columns of `SCHEMA`, a row per image in the order of the source, and how many images each part has."""

    def __init__(self, table: pa.Table, counts: Sequence[int]) -> None:
        self.table = table
        self.counts = np.asarray(counts, np.int64)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> np.ndarray:
        """Returns a column as an array; that of digests is [N, 16] uint8."""
        column = self.table[name]
        if name == "digest":
            held = column.combine_chunks()
            content = np.frombuffer(held.buffers()[1], np.uint8) if len(held) else np.empty(0, np.uint8)
            return content[16 * held.offset :][: 16 * len(held)].reshape(-1, 16)
        return np.asarray(column.to_numpy())

    def names(self, name: str) -> tuple[list[str], np.ndarray]:
        """Returns the distinct values of a column of text, and each row's place among them, -1 for null."""
        column = self.table[name].unify_dictionaries().combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        places = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return column.dictionary.to_pylist(), places

    def place(self, row: int) -> tuple[int, int]:
        """Returns an image's part and its place there."""
        ends = np.cumsum(self.counts)
        part = int(np.searchsorted(ends, row, "right"))
        return part, int(row - (ends[part] - self.counts[part]))


def where(source: Source, index: Index, row: int) -> str:
    """Returns how to find an image, for messages."""
    part, place = index.place(row)
    for number, record in enumerate(source.parts[part].read()):
        if number == place:
            return record.where
    return f"image {row}"


def build(source: Source, config: DataConfig, verify: bool = False) -> Index:
    """Returns the index of a source: what is kept of unchanged parts, the rest read. `verify` reads all again.

    Raises `UserError` for what the source refuses.
    """
    kept = _Kept(config)
    known = {} if verify else kept.read()
    missing = [part for part in source.parts if part.identity is None or part.identity not in known]
    fresh = iter(_read(missing, config.skip_unreadable))
    tables: list[pa.Table] = []
    for part in source.parts:
        found = known.get(part.identity) if part.identity is not None else None
        tables.append(next(fresh) if found is None else found)
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    index = Index(table, [one.num_rows for one in tables])
    identities = [part.identity for part in source.parts]
    if missing and all(identity is not None for identity in identities):
        kept.write(index, [str(identity) for identity in identities])
    return index


def _read(parts: Sequence[Part], whole: bool) -> Iterator[pa.Table]:
    found = one_by_one(look_at, [(part, whole) for part in parts], FEWEST)
    if len(parts) < FEWEST or not sys.stderr.isatty():
        return found
    from rich.console import Console
    from rich.progress import track

    return iter(track(found, "reading the images", len(parts), console=Console(stderr=True), transient=True))


def look_at(part: Part, whole: bool) -> pa.Table:
    """Returns the rows of a part's images."""
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for record in part.read():
        seen = look(record, whole)
        named, several = isinstance(record.label, str), isinstance(record.label, tuple)
        values = {
            **seen._asdict(),
            "number": -1 if named or several or record.label is None else record.label,
            "name": record.label if named else None,
            "several": json.dumps(record.label, ensure_ascii=False) if several else None,
            "split": -1 if record.split is None else SPLITS.index(record.split),
        }
        for name, value in values.items():
            rows[name].append(value)
    return pa.table({name: pa.array(rows[name], SCHEMA.field(name).type) for name in SCHEMA.names}, SCHEMA)


class _Kept:
    """The index of a data set as kept on this machine: a table, and what says which rows are of which part."""

    def __init__(self, config: DataConfig) -> None:
        values = config.model_dump(mode="json", include=READ_BY)
        path = config.path and (
            config.path if "://" in config.path else str(Path(config.path).expanduser().absolute())
        )
        self._name = fingerprint([VERSION, path, values])
        self._folder = cache_folder() / "index"

    def read(self) -> dict[str, pa.Table]:
        """Returns the rows of each part by its identity, of those without unreadable images.

        Nothing if there is no index, or if it is damaged.
        """
        try:
            about: Mapping[str, Any] = unsealed((self._folder / f"{self._name}.json").read_bytes())
            file = self._folder / about["file"]
            if checksum(file) != about["sha256"]:
                return {}
            table = pq.read_table(file, memory_map=False).cast(SCHEMA)
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return {}
        ends = np.cumsum([0, *about["counts"]])
        parts = {
            identity: table.slice(int(begin), count)
            for identity, begin, count in zip(about["parts"], ends, about["counts"], strict=False)
        }
        # what could not be read may be readable now without another size or time: permissions, a network
        return {identity: part for identity, part in parts.items() if set(part["error"].to_pylist()) <= {""}}

    def write(self, index: Index, identities: Sequence[str]) -> None:
        """Keeps an index; one that cannot be written is made again the next time."""
        name = f"{self._name}.parquet"
        with tempfile.TemporaryDirectory(prefix="harness-index-") as scratch:
            file = Path(scratch, name)
            pq.write_table(index.table, file, compression="zstd")
            content = file.read_bytes()
        about = {
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "counts": index.counts.tolist(),
            "parts": list(identities),
        }
        try:
            storage = Storage(str(self._folder))
            storage.write(name, content)
            storage.write(f"{self._name}.json", sealed(about).encode())
        except (OSError, UserError):
            return


# the settings that change what a source yields, apart from its path
READ_BY = {"name", "skip_unreadable", *READ_BY_SOME}
