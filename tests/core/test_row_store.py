"""Where rows are kept: recorded once, kept through crashes, one pinned schema, readable by anything."""

import io
import random
import threading
import uuid

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import row_store
from harness.core.errors import UserError
from harness.core.fingerprint import digest
from harness.core.row_store import RowStore
from harness.core.rows import Outcome
from harness.core.sealed import sealed, unsealed
from harness.core.storage import Storage
from harness.core.tables import SCHEMA_VERSION
from harness.sweep import studies


@pytest.fixture(params=["disk", "memory"])
def storage(request, tmp_path):
    return Storage(str(tmp_path / "results") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def outcome(key, status="ok", *, run="run-1", began_at=0.0, accuracy=0.5, correct=(True, False, True)):
    common = {"key": key, "status": status, "run": run, "began_at": began_at, "data": "digits"}
    if status == "failed":
        tables = {"features": [{**common, "error": "Traceback", "block": 1}]}
    else:
        row = {**common, "block": 1, "test_accuracy": accuracy, "validation_accuracy": float("nan")}
        tables = {"features": [row], "correctness": [{**common, "correct": np.array(correct), "index": 0}]}
    return Outcome(key, "features", status == "failed", tables)


JOURNAL = "rows/run-1/000001.jsonl"


def claim(storage, run, number=1):
    storage.write(f"rows/runs/{number:06d}.json", sealed({"run": run}).encode())


def put(storage, run, features):
    """Writes a table as if the run had ended with it."""
    storage.write(f"rows/{run}/features.parquet", features)
    tables = {"features": {"rows": 1, **digest(features)}}
    storage.write(f"rows/{run}/tables.json", sealed({"tables": tables}).encode())


def record(storage, run, outcomes, compact=False):
    journal = RowStore(storage, studies.tables()).journal(run)
    for one in outcomes:
        journal.record(one)
    if compact:
        journal.compact()
    if not compact:
        journal.flush()
    if journal._file is not None:
        journal._file.close()  # as when the process dies
    return journal


def keys(storage, table="features"):
    return RowStore(storage, studies.tables()).tables()[table]["key"].to_pylist()


def values(storage, column, table="features"):
    found = RowStore(storage, studies.tables()).tables()[table]
    return dict(zip(found["key"].to_pylist(), found[column].to_pylist(), strict=True))


def test_a_place_without_rows_has_empty_tables_of_the_pinned_schema(storage):
    tables = RowStore(storage, studies.tables()).tables()
    assert set(tables) == set(studies.tables())
    for name, table in tables.items():
        assert len(table) == 0
        assert table.schema.equals(studies.tables()[name].schema)


def test_an_outcome_is_there_as_soon_as_it_is_recorded(storage):
    record(storage, "run-1", [outcome("a")])
    assert keys(storage) == ["a"]
    assert values(storage, "correct", "correctness") == {"a": [True, False, True]}


def test_journal_and_parquet_hold_the_same(storage):
    outcomes = [outcome("a"), outcome("b", "failed"), outcome("c", accuracy=0.25, correct=[False] * 17)]
    journal = record(storage, "run-1", outcomes)
    before = RowStore(storage, studies.tables()).tables()
    journal.compact()
    after = RowStore(storage, studies.tables()).tables()
    assert storage.names("rows/run-1") == ["correctness.parquet", "features.parquet", "tables.json"]
    for name in studies.tables():
        assert before[name].to_pylist() == after[name].to_pylist()
        assert before[name].schema.equals(after[name].schema)
    assert len(after["features"]) == 3
    assert len(after["correctness"]) == 2


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_journal_whose_last_line_was_cut_off_keeps_the_others(storage, cut):
    record(storage, "run-1", [outcome("a"), outcome("b"), outcome("c")]).flush()
    content = storage.read(JOURNAL)
    storage.write(JOURNAL, content[:-cut])
    assert keys(storage) == ["a", "b"] if cut > 1 else ["a", "b", "c"]


@settings(max_examples=20)
@given(st.integers(0, 1_500))
def test_a_journal_cut_off_anywhere_keeps_its_whole_lines(cut):
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    lines = [outcome(key).to_json() + "\n" for key in "abcd"]
    content = "".join(lines).encode()[:cut]
    claim(storage, "run-1")
    storage.write(JOURNAL, content)
    ends = np.cumsum([len(line) - 1 for line in lines]) + np.arange(4)  # the newline itself may be missing
    assert keys(storage) == [key for key, end in zip("abcd", ends, strict=True) if end <= len(content)]
    storage.remove("")


def test_nothing_recorded_is_lost_when_a_process_dies(tmp_path):
    """On a disk a line is there before `record` returns: nobody closes the file here."""
    storage = Storage(str(tmp_path))
    journal = RowStore(storage, studies.tables()).journal("run-1")
    assert journal._file is not None
    for number, key in enumerate("abc", start=1):
        journal.record(outcome(key))
        assert len((tmp_path / JOURNAL).read_text().splitlines()) == number
    journal._file.close()


def test_an_interrupt_while_an_outcome_is_written_does_not_lose_it(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "results"))
    journal = RowStore(storage, studies.tables()).journal("run-1")
    journal.record(outcome("a"))

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(row_store.os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.record(outcome("b"))
    journal.compact()
    assert keys(storage) == ["a", "b"]


def test_a_run_that_died_while_compacting_is_not_counted_twice(storage, monkeypatch):
    journal = record(storage, "run-1", [outcome("a"), outcome("b")])
    record(storage, "run-2", [outcome("c", run="run-2")], compact=True)
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", lambda storage, path: None)
        journal.compact()
    assert storage.exists(JOURNAL)
    assert sorted(keys(storage)) == ["a", "b", "c"]
    assert sorted(keys(storage, "correctness")) == ["a", "b", "c"]


def test_a_journal_that_is_compacted_while_others_read_is_not_missed(storage, monkeypatch):
    journal = record(storage, "run-1", [outcome("a"), outcome("b")])
    read_many, compacted = Storage.read_many, []

    def compact_then_read(self, paths):
        if JOURNAL in paths and not compacted:
            compacted.append(True)
            journal.compact()
        return read_many(self, paths)

    monkeypatch.setattr(Storage, "read_many", compact_then_read)
    assert sorted(keys(storage)) == ["a", "b"]
    assert compacted


def test_what_a_listing_says_decides_nothing(storage, monkeypatch):
    """Object stores and their clients may list what they knew a while ago."""
    record(storage, "run-1", [outcome("a")], compact=True)
    record(storage, "run-2", [outcome("b")])
    monkeypatch.setattr(Storage, "names", lambda self, folder: [])
    monkeypatch.setattr(type(storage.fs), "ls", lambda *_, **__: [])
    assert sorted(keys(storage)) == ["a", "b"]


def test_runs_that_begin_at_once_take_different_numbers(storage):
    barrier = threading.Barrier(8)

    def begin(name):
        barrier.wait()
        record(Storage(storage.url), name, [outcome(name, run=name)])

    threads = [threading.Thread(target=begin, args=[f"run-{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys(storage)) == [f"run-{number}" for number in range(8)]
    assert storage.names("rows/runs") == [f"{number:06d}.json" for number in range(1, 9)]


def test_more_runs_than_are_read_in_one_go_are_found(storage):
    for number in range(70):
        claim(storage, f"run-{number}", number + 1)
    record(storage, "last", [outcome("a")])
    assert keys(storage) == ["a"]


def test_an_object_store_gets_a_new_part_with_each_flush_and_only_what_is_new(tmp_path):
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    journal = RowStore(storage, studies.tables()).journal("run-1")
    for key in "abc":
        journal.record(outcome(key))
        journal.flush()
        journal.flush()
    assert storage.names("rows/run-1") == ["000001.jsonl", "000002.jsonl", "000003.jsonl"]
    assert storage.read("rows/run-1/000003.jsonl").count(b"\n") == 1
    assert keys(storage) == ["a", "b", "c"]


def test_rows_wait_for_an_object_store_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(row_store, "FLUSH_SECONDS", 0.01)
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    journal = RowStore(storage, studies.tables()).journal("run-1")
    write, failures = Storage.write, []

    def refuse(self, path, content):
        failures.append(path)
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", refuse)
        journal.record(outcome("a"))
        while len(failures) < 3:
            threading.Event().wait(0.01)
    assert write is Storage.write
    while not keys(storage):
        threading.Event().wait(0.01)
    journal.compact()
    assert keys(storage) == ["a"]


FIRST = [
    (outcome("a", "failed", began_at=1), outcome("a", accuracy=0.7, began_at=2, run="run-2"), 0.7),
    (outcome("a", accuracy=0.7, began_at=1), outcome("a", "failed", began_at=2, run="run-2"), 0.7),
    (outcome("a", accuracy=0.7, began_at=1), outcome("a", accuracy=0.8, began_at=2, run="run-2"), 0.7),
    (outcome("a", accuracy=0.7, began_at=1), outcome("a", accuracy=0.8, began_at=1, run="run-2"), 0.7),
]


@pytest.mark.parametrize(("first", "second", "expected"), FIRST)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_the_first_success_stands_before_failures_and_repetitions(
    storage, first, second, expected, turned, compact
):
    runs = [("run-1", first), ("run-2", second)]
    for run, one in reversed(runs) if turned else runs:
        record(storage, run, [one], compact)
    assert values(storage, "test_accuracy") == {"a": expected}
    assert values(storage, "status") == {"a": "ok"}
    assert len(RowStore(storage, studies.tables()).tables()["correctness"]) == 1


def test_of_failures_alone_the_latest_stays(storage):
    record(storage, "run-1", [outcome("a", "failed", began_at=2)])
    record(storage, "run-2", [outcome("a", "failed", began_at=1, run="run-2")])
    assert values(storage, "run") == {"a": "run-1"}


def test_a_trial_keeps_the_rows_of_one_run_in_every_table(storage):
    record(storage, "run-1", [outcome("a", began_at=1, accuracy=0.1, correct=[True, False])])
    record(storage, "run-2", [outcome("a", began_at=2, run="run-2", accuracy=0.2, correct=[False, True])])
    assert values(storage, "test_accuracy") == {"a": 0.1}
    assert values(storage, "correct", "correctness") == {"a": [True, False]}


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["ok", "failed"]), st.integers(0, 3), st.integers(0, 2)
        ),
        unique_by=lambda one: (one[0], one[2], one[3]),
        max_size=10,
    )
)
def test_one_row_a_trial_whatever_was_recorded(recorded):
    storage = Storage(f"memory://{uuid.uuid4().hex}")
    for number in range(3):
        mine = [
            outcome(key, status, began_at=began, run=f"run-{number}", accuracy=began / 10)
            for key, status, began, run in recorded
            if run == number
        ]
        if mine:
            record(storage, f"run-{number}", mine, compact=number != 1).flush()
    expected = {
        key: min(
            (status != "ok", -began if status != "ok" else began, f"run-{run}")
            for k, status, began, run in recorded
            if k == key
        )
        for key in {one[0] for one in recorded}
    }
    found = RowStore(storage, studies.tables()).tables()["features"].to_pylist()
    got = {
        row["key"]: (
            row["status"] != "ok",
            row["began_at"] * (-1 if row["status"] != "ok" else 1),
            row["run"],
        )
        for row in found
    }
    assert got == expected
    assert len(found) == len(expected)
    storage.remove("")


def test_missing_numbers_are_null(storage):
    record(storage, "run-1", [outcome("a", accuracy=float("inf"))], compact=True)
    row = RowStore(storage, studies.tables()).tables()["features"].to_pylist()[0]
    assert row["validation_accuracy"] is None
    assert row["test_accuracy"] is None
    assert row["pool"] is None


def newer_folder(storage):
    storage.write("rows/SCHEMA.json", sealed({"schema_version": SCHEMA_VERSION + 1}).encode())


def newer_journal(storage):
    line = unsealed(outcome("a").to_json())
    claim(storage, "run-9", 2)
    storage.write("rows/run-9/000001.jsonl", sealed({**line, "v": SCHEMA_VERSION + 1}).encode())


def newer_table(storage):
    table = studies.tables()["features"].filled(outcome("a").tables["features"])
    newer = {"harness_schema_version": str(SCHEMA_VERSION + 1)}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(newer), sink)
    claim(storage, "run-9", 2)
    put(storage, "run-9", sink.getvalue())


@pytest.mark.parametrize("write", [newer_folder, newer_journal, newer_table])
def test_rows_of_a_newer_schema_are_refused(storage, write):
    record(storage, "run-1", [outcome("a")])
    write(storage)
    with pytest.raises(UserError, match=f"schema version {SCHEMA_VERSION + 1}.*install a newer"):
        RowStore(storage, studies.tables()).tables()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema_version": "x"}'])
def test_an_unreadable_schema_file_is_refused(storage, content):
    storage.write("rows/SCHEMA.json", content)
    with pytest.raises(UserError, match=r"SCHEMA\.json: not readable"):
        RowStore(storage, studies.tables()).tables()


@pytest.mark.parametrize("content", [b"PAR1 and then nothing", None])
def test_a_broken_table_is_named_and_its_trials_are_missing(storage, content):
    record(storage, "run-1", [outcome("a"), outcome("b")], compact=True)
    record(storage, "run-2", [outcome("c", run="run-2")], compact=True)
    path = "rows/run-1/features.parquet"
    if content is None:
        storage.remove(path)
    else:
        storage.write(path, content)
    rows = RowStore(storage, studies.tables())
    tables = rows.tables()
    assert tables["features"]["key"].to_pylist() == ["c"]
    assert tables["correctness"]["key"].to_pylist() == ["c"]  # a trial has all of its rows or none
    (line,) = rows.damage
    assert f"{path} is damaged" in line
    assert "(2 rows) count as missing" in line


def test_a_damaged_line_of_a_journal_is_named_and_its_trial_is_missing(storage):
    record(storage, "run-1", [outcome("a"), outcome("b", accuracy=0.25), outcome("c")]).flush()
    storage.write(JOURNAL, storage.read(JOURNAL).replace(b"0.25", b"0.75", 1))
    rows = RowStore(storage, studies.tables())
    assert rows.tables()["features"]["key"].to_pylist() == ["a", "c"]
    (line,) = rows.damage
    assert "000001.jsonl is damaged: the trials of 1 of its 3 lines count as missing" in line


def read(storage):
    """Returns the rows of each table, and what is said about damage."""
    rows = RowStore(storage, studies.tables())
    try:
        return {name: table.to_pylist() for name, table in rows.tables().items()}, " ".join(rows.damage)
    except UserError as error:
        return {}, str(error)


def test_a_flipped_bit_anywhere_changes_no_row(tmp_path):
    storage = Storage(str(tmp_path))
    ended = [outcome("a"), outcome("b", accuracy=0.482), outcome("c", "failed")]
    record(storage, "run-1", ended, compact=True)
    record(storage, "run-2", [outcome("d", run="run-2"), outcome("e", run="run-2", accuracy=0.3)])
    sound, _ = read(storage)
    files = [path for path in sorted((tmp_path / "rows").rglob("*")) if path.is_file()]
    assert len(files) == 7
    draw = random.Random(0)
    for _ in range(100):
        path = draw.choice(files)
        content = path.read_bytes()
        place = draw.randrange(len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
        )
        found, said = read(storage)
        assert all(row in sound[name] for name, table in found.items() for row in table)
        assert found == sound or path.name in said
        path.write_bytes(content)


def test_tables_of_an_older_run_with_fewer_columns_are_read(storage):
    table = (
        studies.tables()["features"]
        .filled(outcome("old", run="run-0").tables["features"])
        .drop_columns(["head", "fit_seconds"])
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    claim(storage, "run-0")
    put(storage, "run-0", sink.getvalue())
    record(storage, "run-1", [outcome("a")])
    assert sorted(keys(storage)) == ["a", "old"]
    assert values(storage, "head") == {"a": None, "old": None}


@pytest.fixture
def experiment(tmp_path):
    """The folder of an experiment whose rows were recorded in another order than its plan's."""
    storage = Storage(str(tmp_path))
    record(
        storage,
        "run-1",
        [outcome(key, accuracy=number / 10) for number, key in enumerate("cabx")],
        compact=True,
    )
    rows = RowStore(storage, studies.tables())
    rows.write_experiment("mine", ["a", "b", "c", "not yet run"], rows.tables())
    return tmp_path / "mine"


def test_an_experiments_tables_hold_its_own_trials_in_the_order_of_its_plan(experiment):
    assert sorted(path.stem for path in experiment.glob("*.parquet")) == sorted(studies.tables())
    assert pq.read_table(experiment / "features.parquet")["key"].to_pylist() == ["a", "b", "c"]
    assert pq.read_table(experiment / "correctness.parquet")["key"].to_pylist() == ["a", "b", "c"]


def test_pandas_duckdb_and_polars_read_a_table_in_one_line(experiment):
    path = str(experiment / "features.parquet")
    for frame in (
        pd.read_parquet(path),
        duckdb.sql(f"from '{path}'").df(),
        pl.read_parquet(path).to_dict(as_series=False),
    ):
        assert list(frame["key"]) == ["a", "b", "c"]
        assert list(frame["test_accuracy"]) == [0.1, 0.2, 0.0]


def test_per_sample_correctness_is_read_as_lists(experiment):
    path = str(experiment / "correctness.parquet")
    expected = [True, False, True]
    assert list(pd.read_parquet(path)["correct"][0]) == expected
    assert duckdb.sql(f"select correct from '{path}'").fetchall()[0][0] == expected
    assert pl.read_parquet(path)["correct"][0].to_list() == expected


def test_the_rows_of_one_trial_keep_their_order(tmp_path):
    storage = Storage(str(tmp_path))
    common = {"key": "a", "status": "ok", "run": "run-1", "began_at": 0.0}
    tables = {"networks": [{**common, "index": index} for index in (3, 1, 2)]}
    rows = RowStore(storage, studies.tables())
    record(storage, "run-1", [Outcome("a", "weights", False, tables)], compact=True)
    rows.write_experiment("mine", ["a"], rows.tables())
    assert pq.read_table(tmp_path / "mine" / "networks.parquet")["index"].to_pylist() == [3, 1, 2]
    assert pa.types.is_int64(studies.tables()["networks"].schema.field("index").type)
