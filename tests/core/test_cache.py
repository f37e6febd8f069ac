"""The cache of a machine: bounded, whole or absent, filled by one process at a time."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.cache import NodeCache, cache_bytes
from harness.core.errors import UserError


def fill(size):
    def write(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"x" * size)

    return write


def held(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "locks")


def age(folder, *oldest_first):
    for place, name in enumerate(oldest_first):
        for path in (folder / name, *(folder / name).rglob("*")):
            os.utime(path, (place, place))


def test_what_is_there_is_not_filled_again(tmp_path):
    cache = NodeCache(tmp_path, 100)
    assert (cache.folder_of("a", 3, fill(3)) / "deep" / "file").read_bytes() == b"xxx"
    assert cache.folder_of("a", 3, None) == tmp_path / "a"


def test_the_least_recently_used_goes_first(tmp_path):
    cache = NodeCache(tmp_path, 100)
    for name in "abc":
        cache.folder_of(name, 30, fill(30))
    age(tmp_path, "a", "b", "c")
    cache.folder_of("a", 30, None)
    cache.folder_of("d", 30, fill(30))
    assert names(tmp_path) == ["a", "c", "d"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=20))
def test_the_bound_holds_whatever_is_asked_for(tmp_path_factory, asked):
    folder = tmp_path_factory.mktemp("cache")
    cache = NodeCache(folder, 100)
    sizes = {}
    for number, size in asked:
        size = sizes.setdefault(number, size)
        assert (cache.folder_of(str(number), size, fill(size)) / "deep" / "file").stat().st_size == size
        assert held(folder) <= 100


def test_what_does_not_fit_at_all_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="raise HARNESS_CACHE_GB"):
        NodeCache(tmp_path, 100).folder_of("a", 101, fill(101))


def test_nothing_stays_of_a_fetch_that_failed(tmp_path):
    def fail(folder):
        fill(3)(folder)
        raise OSError("the line went dead")

    cache = NodeCache(tmp_path, 100)
    with pytest.raises(OSError, match="went dead"):
        cache.folder_of("a", 3, fail)
    assert names(tmp_path) == []
    cache.folder_of("a", 3, fill(3))


def test_a_folder_is_filled_once_however_many_ask(tmp_path):
    filled, barrier = [], threading.Barrier(5)

    def ask():
        barrier.wait()
        NodeCache(tmp_path, 100).folder_of("a", 3, lambda folder: (filled.append(1), fill(3)(folder)))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filled == [1]


def test_a_download_that_a_dead_process_left_goes_in_the_end(tmp_path):
    (tmp_path / "b.90.0123.part").mkdir()
    (tmp_path / "b.90.0123.part" / "file").write_bytes(b"half")
    age(tmp_path, "b.90.0123.part")
    NodeCache(tmp_path, 100).folder_of("a", 30, fill(30))
    assert names(tmp_path) == ["a"]


def test_a_download_under_way_counts_with_its_full_size_and_stays(tmp_path):
    cache = NodeCache(tmp_path, 100)
    cache.folder_of("old", 30, fill(30))
    (tmp_path / "b.60.0123.part").mkdir()
    cache.folder_of("a", 30, fill(30))
    assert names(tmp_path) == ["a", "b.60.0123.part"]


@pytest.mark.parametrize("given", ["much", "0", "-1", "inf", "nan"])
def test_a_bound_that_is_no_number_is_refused(given, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_GB", given)
    with pytest.raises(UserError, match=f"HARNESS_CACHE_GB={given}"):
        cache_bytes()
