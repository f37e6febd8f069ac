"""Storage: writes are whole or absent, paths stay inside, on a disk and on an object store alike."""

import errno
import os
import pickle
import threading
import uuid
from pathlib import Path

import pytest

from harness.core.errors import UserError
from harness.core.storage import Storage


@pytest.fixture(params=["disk", "memory"])
def storage(request, tmp_path):
    """An empty folder on each kind of file system."""
    return Storage(str(tmp_path / "results") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read(storage):
    storage.write("a/b/file", b"one")
    assert storage.read("a/b/file") == b"one"
    storage.write("a/b/file", b"two")
    assert storage.read("a/b/file") == b"two"
    assert storage.exists("a/b/file")
    assert storage.exists("a")


def test_what_is_not_there_says_so(storage):
    assert not storage.exists("a")
    assert storage.names("a") == []
    storage.remove("a")
    with pytest.raises(FileNotFoundError):
        storage.read("a")


def test_names_are_those_directly_in_a_folder_sorted(storage):
    for path in ("b", "c/deep/file", "a"):
        storage.write(path, b"")
    assert storage.names("") == ["a", "b", "c"]
    assert storage.names("c") == ["deep"]


def test_a_file_that_another_process_wrote_is_listed(storage):
    storage.write("folder/one", b"")
    assert storage.names("folder") == ["one"]
    Storage(storage.url).write("folder/two", b"")
    assert storage.names("folder") == ["one", "two"]


def test_removing_a_folder_removes_what_is_in_it(storage):
    storage.write("a/b/file", b"")
    storage.write("c", b"")
    storage.remove("a")
    assert storage.names("") == ["c"]


def test_files_go_up_and_come_down_whole(storage, tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    storage.upload(tmp_path / "source", "a/b/file")
    storage.download("a/b/file", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == b"content"
    with pytest.raises(FileNotFoundError):
        storage.download("a/missing", tmp_path / "new" / "missing")
    assert os.listdir(tmp_path / "new") == ["target"]


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/.."])
def test_a_path_that_leaves_the_folder_is_refused(storage, path):
    for action in (
        storage.read,
        storage.exists,
        storage.names,
        storage.remove,
        lambda p: storage.write(p, b""),
    ):
        with pytest.raises(UserError, match="is outside the results folder"):
            action(path)


def test_a_storage_travels_between_processes_as_its_address(storage):
    storage.write("file", b"content")
    assert pickle.loads(pickle.dumps(storage)).read("file") == b"content"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_dies_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch, step):
    storage = Storage(str(tmp_path))
    storage.write("file", b"old")

    def die(*arguments):
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", die)
    else:
        monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(OSError, match="No space"):
        storage.write("file", b"new content")
    assert storage.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_readers_never_see_a_part_of_a_write(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    storage.write("file", b"old")
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (seen.append(storage.read("file")), fsync(number)))
    storage.write("file", b"new" * 1000)
    assert seen == [b"old"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_still_lets_one_writer_win(tmp_path, monkeypatch, error):
    def refuse(*arguments):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    storage = Storage(str(tmp_path))
    storage.check_writable()
    assert os.listdir(tmp_path) == []
    barrier, won = threading.Barrier(6), []

    def create(number):
        barrier.wait()
        if storage.create("file", f"writer {number}".encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert storage.read("file") == f"writer {winner}".encode()
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_not_taken_for_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        Storage(str(tmp_path)).create("file", b"content")
    assert os.listdir(tmp_path) == []


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(
        UserError, match=r"--results s4://bucket: did you mean 's3'\? known: file, gs, memory, s3"
    ):
        Storage("s4://bucket")


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        Storage(str(tmp_path / "file" / "results")).check_writable()


def test_a_folder_that_refuses_files_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        Storage(str(tmp_path)).check_writable()


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path):
    Storage(str(tmp_path / "a" / "b")).check_writable()
    assert os.listdir(tmp_path) == []


def test_only_a_disk_has_a_local_path(tmp_path):
    assert Storage(str(tmp_path)).local == tmp_path
    assert Storage(f"file://{tmp_path}").local == tmp_path
    assert Storage("memory://x").local is None


def test_places_are_described_as_people_write_them(tmp_path):
    assert Storage(str(tmp_path)).describe("a/b") == f"{tmp_path}/a/b"
    assert Storage("memory://x").describe("a") == "memory:///x/a"
