"""Tables as declarations: a study says once what its columns are, and everything else follows.

From a `Table` follow the Parquet schema with the meanings in it, the page's axes and set-up columns, `describe` and
the data dictionary. A file's schema carries its declaration, so `Table.of` reads it back where the study that made
the file is not installed.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

import pyarrow as pa

from harness.core.errors import UserError

SCHEMA_VERSION = 2


class Role(StrEnum):
    """What a column is for."""

    AXIS = "axis"  # swept by the experiment; a search chooses its values
    SETUP = "setup"  # tells results apart that are never averaged or searched together
    METRIC = "metric"  # measured
    INTERVAL = "interval"  # an end of a metric's 95 % interval, or how many samples stand behind it
    IDENTITY = "identity"  # names the row, or follows from its axes and set-up


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: pa.DataType
    role: Role
    meaning: str  # one line; says when it is null
    unit: str = ""
    expected: bool = False  # null in a row that succeeded is counted on the page as a missing number

    @property
    def field(self) -> pa.Field:
        """The column as Arrow has it, its meaning in the field's metadata."""
        about = {"role": str(self.role), "meaning": self.meaning, "unit": self.unit}
        return pa.field(
            self.name, self.type, metadata=about | ({"expected": "true"} if self.expected else {})
        )

    @classmethod
    def of(cls, field: pa.Field) -> Self:
        """Reads a column back from a file's schema; a column without metadata identifies."""
        about = {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        role = Role(about.get("role", Role.IDENTITY))
        expected = about.get("expected") == "true"
        return cls(field.name, field.type, role, about.get("meaning", ""), about.get("unit", ""), expected)


class Table(NamedTuple):
    """A table of results: those columns and the ones that all tables have in common (`COMMON`)."""

    name: str
    row: str  # what a row is, as in "a probe: a head on the features of one setting"
    columns: tuple[Column, ...]
    detail: bool = False  # a trial has many rows in it, beside its own row in another table
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
        """Reads a declaration back from a file's schema. Raises `ValueError` for a schema that has none."""
        about = {name.decode(): text.decode() for name, text in (schema.metadata or {}).items()}
        if "table" not in about:
            raise ValueError("the schema says of no table")
        common = {column.name for column in COMMON}
        columns = tuple(Column.of(field) for field in schema if field.name not in common)
        detail = about.get("detail") == "true"
        return cls(about["table"], about.get("row", ""), columns, detail, about.get("title", ""))

    def names(self, *roles: Role) -> list[str]:
        """Returns the names of the columns with one of these roles, in their order."""
        return [column.name for column in self.columns if column.role in roles]

    def empty(self) -> pa.Table:
        """Returns the table without rows."""
        return self.schema.empty_table()

    def adopted(self, table: pa.Table) -> pa.Table:
        """Returns rows that files held with this table's columns in their order, and its declaration."""
        schema = self.schema
        fields = [schema.field(name).with_type(table.schema.field(name).type) for name in schema.names]
        columns = table.select(schema.names).columns
        return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=schema.metadata))

    def filled(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """Returns rows as an Arrow table of the pinned schema; a column that it lacks is a `KeyError`."""
        schema, rows = self.schema, list(rows)
        known = set(schema.names)
        for row in rows:
            if not known.issuperset(row):
                raise KeyError(f"table {self.name!r} has no column {sorted(set(row) - known)}")
        return pa.Table.from_pylist(
            [{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=schema
        )


def estimate(name: str, meaning: str, expected: bool = False) -> tuple[Column, ...]:
    """Returns the columns of an accuracy with its 95 % interval and the number of samples behind it."""
    return (
        Column(name, pa.float64(), Role.METRIC, meaning, "share, 0 to 1", expected),
        Column(f"{name}_low", pa.float64(), Role.INTERVAL, "lower end of its 95 % interval", "share, 0 to 1"),
        Column(
            f"{name}_high", pa.float64(), Role.INTERVAL, "upper end of its 95 % interval", "share, 0 to 1"
        ),
        Column(f"{name}_n", pa.int64(), Role.INTERVAL, "samples that it was measured on", "samples"),
    )


def _identity(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> Column:
    return Column(name, kind, Role.IDENTITY, meaning, unit)


COMMON = (
    _identity("key", pa.string(), "fingerprint of all that the trial depends on: its name in every table"),
    _identity("status", pa.string(), '"ok" or "failed"'),
    _identity("error", pa.string(), "the traceback of a failed trial"),
    Column("seconds", pa.float64(), Role.METRIC, "computing time of the trial", "s"),
    _identity("began_at", pa.float64(), "when the trial began", "s since 1970, UTC"),
    _identity("schema_version", pa.int32(), "version of these tables"),
    _identity("run", pa.string(), "the run of the command that computed it"),
    _identity("seed", pa.int64(), "the experiment's seed, or the trial's own"),
    _identity("data", pa.string(), "the data set, as the experiment calls it"),
    _identity("data_fingerprint", pa.string(), "fingerprint of images, labels and splits"),
    _identity("device", pa.string(), "the GPU, or the kind of CPU"),
    _identity("harness_version", pa.string(), "version of this software"),
    _identity("code_commit", pa.string(), "its commit; null if it is not a checkout"),
    _identity("code_dirty", pa.bool_(), "whether the checkout had uncommitted changes"),
    _identity("python_version", pa.string(), "version of Python"),
    _identity("ray_version", pa.string(), "version of Ray"),
    _identity("torch_version", pa.string(), "version of PyTorch"),
    _identity("diffusers_version", pa.string(), "version of diffusers"),
    _identity("numpy_version", pa.string(), "version of NumPy"),
    _identity("scikit_learn_version", pa.string(), "version of scikit-learn"),
)
WHEN_AND_WHERE = ("seconds", "began_at", "run", "fit_seconds")  # columns that differ between two equal runs

CORRECTNESS = Table(
    "correctness",
    "a classifier's test samples, right or wrong, for paired tests",
    (
        _identity("study", pa.string(), "the study whose trial it belongs to"),
        _identity("kind", pa.string(), "what was classified with, as in the trial's table"),
        _identity("setting", pa.float64(), "of that kind; null without one"),
        _identity("index", pa.int64(), "of several classifiers of a trial; null of one"),
        _identity("split", pa.string(), "the split that the samples are from"),
        Column(
            "correct", pa.list_(pa.bool_()), Role.METRIC, "whether each sample is right, in the split's order"
        ),
    ),
    detail=True,
)


def check_schema_version(found: int, where: str) -> None:
    """Raises `UserError` if `where` was written with another version of the schema than this one."""
    if found == SCHEMA_VERSION:
        return
    advice = (
        "install a newer harness, or choose another --results"
        if found > SCHEMA_VERSION
        else "choose another --results; the tables and pages there stay as they are, for pandas and a browser"
    )
    raise UserError(
        f"{where}: written with schema version {found}, this is version {SCHEMA_VERSION}; {advice}"
    )
