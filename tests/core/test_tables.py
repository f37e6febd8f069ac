"""Tables: everything follows from the declaration, and files carry it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.core.errors import UserError
from harness.core.tables import COMMON, SCHEMA_VERSION, Column, Role, Table, check_schema_version, estimate
from harness.sweep import studies

TABLES = studies.tables()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_says_what_each_column_is(table):
    assert table.row
    names = [column.name for column in (*COMMON, *table.columns)]
    assert len(set(names)) == len(names)
    assert table.schema.names == names
    for column in table.columns:
        assert column.meaning
        assert "\n" not in column.meaning
        assert column.expected <= (column.role is Role.METRIC)
        assert (column.name.endswith(("_low", "_high", "_n"))) <= (
            column.role in (Role.INTERVAL, Role.METRIC)
        )


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_file_carries_its_declaration(table, tmp_path):
    pq.write_table(table.empty(), tmp_path / "file.parquet")
    schema = pq.read_schema(tmp_path / "file.parquet")
    assert Table.of(schema) == table
    assert schema.metadata[b"harness_schema_version"] == str(SCHEMA_VERSION).encode()
    assert schema.field(table.columns[0].name).metadata[b"meaning"].decode() == table.columns[0].meaning


def test_a_schema_without_a_declaration_is_refused():
    with pytest.raises(ValueError, match="does not declare a table"):
        Table.of(pa.schema({"a": pa.int64()}))


def test_rows_get_the_pinned_types_and_no_others():
    table = Table(
        "mine", "a thing", (Column("size", pa.int32(), Role.AXIS, "of it"), *estimate("hit", "rate"))
    )
    filled = table.filled([{"key": "a", "size": 3, "hit": 0.5}, {"key": "b"}])
    assert filled.schema.equals(table.schema, check_metadata=True)
    assert filled["size"].to_pylist() == [3, None]
    assert filled["schema_version"].to_pylist() == [SCHEMA_VERSION] * 2
    with pytest.raises(KeyError, match="no column \\['colour'\\]"):
        table.filled([{"key": "a", "colour": 1}])
    assert table.names(Role.AXIS) == ["size"]
    assert table.names(Role.METRIC, Role.INTERVAL) == ["hit", "hit_low", "hit_high", "hit_n"]


def test_rows_of_files_keep_their_wider_types_and_get_the_declaration():
    table = Table("mine", "a thing", (Column("size", pa.int32(), Role.AXIS, "of it"),))
    wider = table.empty().append_column("more", pa.array([], pa.int64()))
    wider = wider.set_column(wider.schema.names.index("size"), "size", pa.array([], pa.float64()))
    adopted = table.adopted(wider)
    assert adopted.schema.names == table.schema.names
    assert adopted.schema.field("size").type == pa.float64()
    assert Table.of(adopted.schema).columns[0].meaning == "of it"


def test_another_version_of_the_schema_is_refused_with_what_to_do():
    check_schema_version(SCHEMA_VERSION, "here")
    with pytest.raises(
        UserError, match=f"version {SCHEMA_VERSION + 1}, but this .*install a newer version of harness"
    ):
        check_schema_version(SCHEMA_VERSION + 1, "here")
    with pytest.raises(
        UserError,
        match=r"version 1, but this .*choose another --results; nothing there is changed or deleted",
    ):
        check_schema_version(1, "here")
