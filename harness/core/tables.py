"""Declarations of tables: a study declares its columns once, and everything else follows.

The Parquet schema with the meanings in it, the page's axes and set-up columns, `describe` and the data dictionary all
follow from a `Table`. A file's schema carries its declaration, so `Table.of` can read it back even if the study that
wrote the file is not installed.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

import pyarrow as pa

from harness.core.errors import UserError

SCHEMA_VERSION = 2
ABOUT = "about.json"  # beside the tables of an experiment: size and SHA-256 of each, and warnings


class Role(StrEnum):
    """The purpose of a column."""

    AXIS = "axis"  # swept by the experiment; a search chooses its values
    SETUP = "setup"  # separates results that are never averaged or searched together
    METRIC = "metric"  # measured
    INTERVAL = "interval"  # a bound of a metric's 95 % interval, or its number of samples
    IDENTITY = "identity"  # identifies the row, or follows from its axes and set-up


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: pa.DataType
    role: Role
    meaning: str  # one line, including when it is null
    unit: str = ""
    expected: bool = False  # if null in a successful row, the page counts it as a missing number

    @property
    def field(self) -> pa.Field:
        """The column as an Arrow field, with its meaning in the metadata."""
        about = {"role": str(self.role), "meaning": self.meaning, "unit": self.unit}
        return pa.field(
            self.name, self.type, metadata=about | ({"expected": "true"} if self.expected else {})
        )

    @classmethod
    def of(cls, field: pa.Field) -> Self:
        """Reads a column back from a file's schema; a column without metadata has the role identity."""
        about = _texts(field.metadata)
        role = Role(about.get("role", Role.IDENTITY))
        expected = about.get("expected") == "true"
        return cls(field.name, field.type, role, about.get("meaning", ""), about.get("unit", ""), expected)


class Table(NamedTuple):
    """A table of results: its own columns, after those that all tables share (`COMMON`)."""

    name: str
    row: str  # what a row is, as in "a probe: a head on the features of one setting"
    columns: tuple[Column, ...]
    detail: bool = False  # a trial has many rows in it, in addition to its row in another table
    title: str = ""  # heading of its section on the page; a table of details has none

    @property
    def schema(self) -> pa.Schema:
        """The pinned schema, the common columns first."""
        about = {"harness_schema_version": str(SCHEMA_VERSION), "table": self.name, "row": self.row}
        about |= {"detail": "true"} if self.detail else {}
        about |= {"title": self.title} if self.title else {}
        return pa.schema([column.field for column in (*COMMON, *self.columns)], metadata=about)

    @classmethod
    def of(cls, schema: pa.Schema) -> Self:
        """Reads a declaration back from a file's schema. Raises `ValueError` if the schema has none."""
        about = _texts(schema.metadata)
        if "table" not in about:
            raise ValueError("the schema does not declare a table")
        common = {column.name for column in COMMON}
        columns = tuple(Column.of(field) for field in schema if field.name not in common)
        detail = about.get("detail") == "true"
        return cls(about["table"], about.get("row", ""), columns, detail, about.get("title", ""))

    def names(self, *roles: Role) -> list[str]:
        """Returns the names of the columns with one of these roles, in order."""
        return [column.name for column in self.columns if column.role in roles]

    def empty(self) -> pa.Table:
        """Returns an Arrow table without rows."""
        return self.schema.empty_table()

    def adopted(self, table: pa.Table) -> pa.Table:
        """Returns rows read from files with this table's columns, in order, and its declaration."""
        schema = self.schema
        fields = [schema.field(name).with_type(table.schema.field(name).type) for name in schema.names]
        columns = table.select(schema.names).columns
        return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=schema.metadata))

    def filled(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Returns rows as an Arrow table of the pinned schema; raises `KeyError` for an unknown column."""
        schema, rows = self.schema, list(rows)
        known = set(schema.names)
        for row in rows:
            if not known.issuperset(row):
                raise KeyError(f"table {self.name!r} has no column {sorted(set(row) - known)}")
        return pa.Table.from_pylist(
            [{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=schema
        )


def _texts(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in (metadata or {}).items()}


def estimate(name: str, meaning: str, expected: bool = False) -> tuple[Column, ...]:
    """Returns the columns of an accuracy, or another share, with its 95 % interval and its number of samples."""
    return (
        Column(name, pa.float64(), Role.METRIC, meaning, "share, 0 to 1", expected),
        Column(
            f"{name}_low", pa.float64(), Role.INTERVAL, "lower bound of its 95 % interval", "share, 0 to 1"
        ),
        Column(
            f"{name}_high", pa.float64(), Role.INTERVAL, "upper bound of its 95 % interval", "share, 0 to 1"
        ),
        Column(f"{name}_n", pa.int64(), Role.INTERVAL, "number of samples it was measured on", "samples"),
    )


def _identity(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> Column:
    return Column(name, kind, Role.IDENTITY, meaning, unit)


COMMON = (
    _identity(
        "key", pa.string(), "fingerprint of everything the trial depends on; identifies it in all tables"
    ),
    _identity("status", pa.string(), '"ok" or "failed"'),
    _identity("error", pa.string(), "traceback of a failed trial; null otherwise"),
    Column("seconds", pa.float64(), Role.METRIC, "run time of the trial", "s"),
    _identity("began_at", pa.float64(), "when the trial started", "s since 1970, UTC"),
    _identity("schema_version", pa.int32(), "version of the table schema"),
    _identity("run", pa.string(), "run of the command that computed it"),
    _identity("seed", pa.int64(), "seed of the experiment, or the trial's own"),
    _identity("data", pa.string(), "name of the data set in the experiment"),
    _identity("data_fingerprint", pa.string(), "fingerprint of images, labels, class names and splits"),
    _identity("device", pa.string(), "GPU model, or CPU architecture"),
    _identity("harness_version", pa.string(), "version of harness"),
    _identity("code_commit", pa.string(), "git commit of harness; null if it is not a checkout"),
    _identity("code_dirty", pa.bool_(), "whether the checkout had uncommitted changes"),
    _identity("python_version", pa.string(), "version of Python"),
    _identity("ray_version", pa.string(), "version of Ray"),
    _identity("torch_version", pa.string(), "version of PyTorch"),
    _identity("diffusers_version", pa.string(), "version of diffusers"),
    _identity("numpy_version", pa.string(), "version of NumPy"),
    _identity("scikit_learn_version", pa.string(), "version of scikit-learn"),
)
WHEN_AND_WHERE = ("seconds", "began_at", "run", "fit_seconds")  # differ between two identical runs

CORRECTNESS = Table(
    "correctness",
    "a classifier, with each test sample right or wrong, for paired tests",
    (
        _identity("study", pa.string(), "study that the trial belongs to"),
        _identity("kind", pa.string(), "what was used for classification, as in the trial's table"),
        _identity("setting", pa.float64(), "setting of that kind; null if it has none"),
        _identity(
            "index", pa.int64(), "number of the classifier within the trial; null if there is only one"
        ),
        _identity("split", pa.string(), "split that the samples are from"),
        Column(
            "correct",
            pa.list_(pa.bool_()),
            Role.METRIC,
            "whether each sample was classified correctly, in the order of the split",
        ),
    ),
    detail=True,
)


def check_schema_version(found: int, where: str) -> None:
    """Raises `UserError` if `where` was written with another version of the schema."""
    if found == SCHEMA_VERSION:
        return
    advice = (
        "install a newer version of harness, or choose another --results"
        if found > SCHEMA_VERSION
        else "choose another --results; nothing there is changed or deleted: report.html still opens in a "
        "browser and *.parquet in pandas"
    )
    raise UserError(
        f"{where}: written with schema version {found}, but this harness uses version {SCHEMA_VERSION}; {advice}"
    )
