"""Files of a folder: the same on a disk and on an object store."""

import fsspec
import numpy as np
import pytest
from images import config, refused
from layouts import classes, folders, listed, tables

from harness.core.errors import UserError
from harness.data.dataset import load
from harness.data.files import Folder


@pytest.fixture
def stored():
    """Returns a function that copies a folder to an object store in memory, and returns its URL."""
    memory = fsspec.filesystem("memory")

    def copied(folder):
        for file in folder.rglob("*"):
            if file.is_file():
                memory.pipe(f"/{folder.name}/{file.relative_to(folder)}", file.read_bytes())
        return f"memory://{folder.name}"

    yield copied
    memory.store.clear()


WRITTEN = {
    "folder": lambda place: classes(place, {"a": 10, "b": 10}),
    "folder of splits": lambda place: folders(place, {"train": 5, "val": 2, "test": 3}),
    "parquet": lambda place: tables(place, {"train": 10, "val": 4, "test": 6}),
    "csv": lambda place: listed(place, {"train": 10, "val": 4, "test": 6}, split="split"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_data_set_on_an_object_store_is_that_on_a_disk(tmp_path, stored, kind):
    place = WRITTEN[kind](tmp_path / kind.replace(" ", "-"))
    url = stored(place)
    local, remote = (load(config(path, name=kind.split()[0]), 0) for path in (place, url))
    assert remote.fingerprint == local.fingerprint
    np.testing.assert_array_equal(remote.images, local.images)
    np.testing.assert_array_equal(remote.labels, local.labels)


def test_one_file_of_an_object_store(tmp_path, stored):
    url = stored(tables(tmp_path / "tables", {"all": 20}))
    assert len(load(config(f"{url}/all.parquet"), 0).labels) == 20
    refused("memory://tables/none.parquet: does not exist", "memory://tables/none.parquet")


@pytest.mark.parametrize("name", ["folder", "parquet"])
def test_what_is_not_on_the_object_store_is_one_line(name):
    refused("data.path memory://nowhere: no such folder on the object store", "memory://nowhere", name=name)
    refused("data.path nothing://x: ", "nothing://x", name=name)


def test_names_are_sorted_and_without_what_systems_leave(tmp_path, stored):
    for name in (
        "b.png",
        "a.png",
        ".hidden",
        "Thumbs.db",
        "z/.DS_Store",
        "z/x.png",
        "__MACOSX/x.png",
        "c/1.txt",
    ):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"xy")
    for folder in (Folder(str(tmp_path / "data")), Folder(stored(tmp_path / "data"))):
        assert folder.names() == ["a.png", "b.png"]
        assert folder.folders() == ["c", "z"]
        assert [entry[:2] for entry in folder.entries()] == [
            (name, 2) for name in ("a.png", "b.png", "c/1.txt", "z/x.png")
        ]
        assert folder.below("z").names() == ["x.png"]
        assert folder.below("z").exists()
        assert not folder.below("y").exists()


def test_a_file_that_is_written_again_has_another_stamp(tmp_path):
    (tmp_path / "x.png").write_bytes(b"one")
    (before,) = Folder(str(tmp_path)).entries()
    (tmp_path / "x.png").unlink()
    (tmp_path / "x.png").symlink_to("nothing")
    (after,) = Folder(str(tmp_path)).entries()
    assert before != after
    assert (after.name, after.size, after.stamp) == ("x.png", 0, "")


def test_an_object_that_is_written_again_has_another_stamp(tmp_path, stored):
    place = classes(tmp_path / "data", {"a": 10, "b": 10})
    url = stored(place)
    before = load(config(url, name="folder"), 0).fingerprint
    assert all(entry.stamp for entry in Folder(url).entries())
    content = bytes(reversed((place / "b" / "3.png").read_bytes()))
    fsspec.filesystem("memory").pipe("/data/b/3.png", content)
    refused("b/3.png: the image cannot be read", url, name="folder")
    fsspec.filesystem("memory").pipe("/data/b/3.png", (place / "b" / "3.png").read_bytes())
    assert load(config(url, name="folder"), 0).fingerprint == before


def test_links_to_a_folder_that_leads_here_are_left_out(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x.png").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.png").write_bytes(b"y")
    for name, target in (("self", "a"), ("up", "."), ("out", "elsewhere")):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a" / "b")
    names = [entry.name for entry in Folder(str(tmp_path / "a")).entries()]
    assert names == ["b/out/y.png", "x.png"]


def test_a_path_that_no_file_system_knows_is_refused():
    with pytest.raises(UserError, match="nothing://x: Protocol not known: nothing"):
        Folder("nothing://x").exists()
