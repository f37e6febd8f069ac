"""The index of a data set: what has not changed is not read again, and what is kept is never trusted blindly."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from images import config, png
from layouts import classes, listed, tables

from harness.core.errors import UserError
from harness.data import index as indexing
from harness.data.config import SOURCES
from harness.data.dataset import read
from harness.data.decoding import look
from harness.data.index import build
from harness.data.source import Part, Record, Source


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def looked(monkeypatch):
    """The images that were looked at."""
    seen = []

    def counting(record, whole=False):
        seen.append(record.where)
        return look(record, whole)

    monkeypatch.setattr(indexing, "look", counting)
    return seen


@pytest.fixture
def folder(tmp_path, cache):
    return config(classes(tmp_path / "data", {"a": 10, "b": 10, "c": 10}), name="folder")


def index_of(config, verify=False):
    return build(SOURCES.load(config.name)(config), config, verify)


def same(one, other):
    """Returns whether two indices hold the same rows, by value: a level that is NaN equals itself."""
    np.testing.assert_array_equal(one.counts, other.counts)
    return repr(one.table.to_pylist()) == repr(other.table.to_pylist())


def fingerprint(config):
    return read(config, 0).dataset.fingerprint


def test_what_has_not_changed_is_not_read_again(folder, looked):
    first = index_of(folder)
    assert len(looked) == 30
    again = index_of(folder)
    assert len(looked) == 30
    assert same(again, first)


@pytest.mark.parametrize("name", ["parquet", "csv"])
def test_tables_that_have_not_changed_are_not_read_again(tmp_path, cache, looked, name):
    place = tmp_path / "data"
    if name == "parquet":
        tables(place, {"train": 14, "test": 6})
    else:
        listed(place, {"all": 20})
    first = index_of(config(place, name=name))
    assert len(looked) == 20
    assert same(index_of(config(place, name=name)), first)
    assert len(looked) == 20


def rewrite(place):
    (place / "b" / "3.png").write_bytes(png(99, (7, 6)))


def remove(place):
    (place / "b" / "3.png").unlink()


def add(place):
    (place / "b" / "new.png").write_bytes(png(99))


def rename(place):
    (place / "b" / "3.png").rename(place / "b" / "33.png")


@pytest.mark.parametrize(("change", "count"), [(rewrite, 10), (remove, 9), (add, 11), (rename, 10)])
def test_what_changed_is_read_again_and_nothing_else(folder, looked, change, count):
    before = fingerprint(folder.model_copy(update={"size": 6}))
    looked.clear()
    change(Path(folder.path))
    after = fingerprint(folder.model_copy(update={"size": 6}))
    assert len(looked) == count
    assert all("/b/" in where for where in looked)
    assert after != before or change is rename


def test_an_edit_that_keeps_size_and_time_is_noticed_when_all_is_verified(tmp_path, cache):
    place = tmp_path / "data"
    for kind in "ab":
        for n in range(10):
            (place / kind).mkdir(parents=True, exist_ok=True)
            (place / kind / f"{n}.ppm").write_bytes(b"P6 4 4 255\n" + bytes([n]) * 48)
    folder = config(place, name="folder")
    before = fingerprint(folder)
    file = place / "b" / "3.ppm"
    about = file.stat()
    file.write_bytes(b"P6 4 4 255\n" + bytes([77]) * 48)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert fingerprint(folder) == before
    index_of(folder, verify=True)
    verified = fingerprint(folder)
    assert verified != before
    assert fingerprint(folder) == verified


def test_what_could_not_be_read_is_tried_again(folder, monkeypatch):
    """Permissions and networks change without another size or time of the file."""
    failing = Path(folder.path) / "b" / "3.png"

    def refused(record, whole=False):
        return (
            look(record, whole)._replace(error=f"{record.where}: denied")
            if record.image == failing
            else look(record)
        )

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "look", refused)
        with pytest.raises(UserError, match="denied"):
            read(folder, 0)
    assert len(read(folder, 0).dataset.labels) == 30


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def shorten(file):
    file.write_bytes(file.read_bytes()[:-9])


def forge(file):
    """Keeps JSON that can be parsed, but says something else."""
    if file.suffix == ".json":
        about = json.loads(file.read_text())
        about["counts"] = [count + 1 for count in about["counts"]]
        file.write_text(json.dumps(about))
    else:
        flip(file)


@pytest.mark.parametrize("damage", [flip, shorten, forge, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("ending", [".json", ".parquet"])
def test_a_damaged_index_is_made_again(folder, cache, looked, damage, ending):
    first = index_of(folder)
    (file,) = cache.glob(f"*{ending}")
    damage(file)
    assert same(index_of(folder), first)
    assert len(looked) == 60
    assert same(index_of(folder), first)
    assert len(looked) == 60


def test_a_cache_that_cannot_be_written_is_done_without(folder, cache, looked):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    first = index_of(folder)
    assert same(index_of(folder), first)
    assert len(looked) == 60


def test_settings_that_change_what_is_read_have_an_index_of_their_own(folder, looked):
    index_of(folder)
    index_of(folder.model_copy(update={"size": 32, "max_train": 3, "subset": 0.5, "classes": ["a", "b"]}))
    assert len(looked) == 30
    index_of(folder.model_copy(update={"skip_unreadable": True}))
    assert len(looked) == 60


def test_what_is_not_recognised_is_read_every_time(cache, looked):
    source = Source.of([Record(png(n), 0, None, f"image {n}") for n in range(5)], None)
    build(source, config())
    build(source, config())
    assert len(looked) == 10
    assert not cache.exists()


@pytest.mark.slow  # starts processes
def test_processes_find_what_one_finds(folder, monkeypatch):
    alone = index_of(folder, verify=True)
    monkeypatch.setattr(indexing, "FEWEST", 2)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = index_of(folder, verify=True)
    assert same(together, alone)


def test_each_image_has_its_row(cache):
    records = [
        Record(png(0, (6, 5), channels=1), 3, "test", "grey"),
        Record(png(1, (7, 4)), "cat", None, "colour"),
        Record(b"x", None, "train", "bad"),
        Record(np.zeros((4, 9, 3), np.uint8), None, "validation", "array"),
    ]
    index = build(Source.of(records, None), config())
    assert index.column("width").tolist() == [6, 7, 0, 9]
    assert index.column("height").tolist() == [5, 4, 0, 4]
    assert index.column("grey").tolist() == [True, False, False, False]
    assert index.column("split").tolist() == [2, -1, 0, 1]
    assert index.column("number").tolist() == [3, -1, -1, -1]
    texts, places = index.names("name")
    assert [None if place < 0 else texts[place] for place in places] == [None, "cat", None, None]
    messages, places = index.names("error")
    assert [messages[place][:8] for place in places] == ["", "", "bad: the", ""]
    assert index.column("size")[0] == len(records[0].image)
    digests = index.column("digest")
    assert digests.shape == (4, 16)
    assert len({digest.tobytes() for digest in digests}) == 4


def some(count, start):
    return Part(lambda: [Record(b"", None, None, f"image {n}") for n in range(start, start + count)])


def test_a_row_is_found_in_its_part():
    source = Source([some(2, 0), some(0, 2), some(3, 2)], None)
    index = build(source, config(), verify=True)
    assert [index.place(row) for row in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert [indexing.where(source, index, row) for row in range(5)] == [f"image {n}" for n in range(5)]
