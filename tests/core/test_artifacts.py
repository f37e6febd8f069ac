"""Artifacts: published whole, found by checksum, never read damaged."""

import json
import os
import pickle
import threading
import time
import uuid
from pathlib import Path

import pytest

from harness.core import lease
from harness.core.artifacts import ArtifactStore, Damaged
from harness.core.storage import Storage


@pytest.fixture(params=["disk", "memory"])
def store(request, tmp_path, monkeypatch):
    """An empty store on each kind of file system; what is downloaded stays in `tmp_path`."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return ArtifactStore(
        Storage(str(tmp_path / "results") if request.param == "disk" else f"memory://{uuid.uuid4().hex}")
    )


def publish(store, files, key="key", **about):
    with store.scratch() as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        store.publish("kind", key, folder, about)


def find(store):
    """Returns the paths of all files of an artifact."""
    return sorted(
        path.removeprefix(store.storage.root + "/")
        for path in store.storage.fs.find(store.storage.full("artifacts/kind/key"))
    )


def place_of(store, name):
    """Returns the path of one of its files."""
    [path] = (path for path in find(store) if path.endswith(f"/{name}"))
    return path


def again(store):
    """Returns the store as another process sees it."""
    return pickle.loads(pickle.dumps(store))


def test_what_was_published_is_found_with_what_was_said_about_it(store):
    assert store.manifest("kind", "key") is None
    publish(store, {"a": b"one", "deep/b": b"two"}, seconds=3)
    for reader in (store, again(store)):
        manifest = reader.manifest("kind", "key")
        assert manifest["seconds"] == 3
        assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {"a": 3, "deep/b": 3}
        assert reader.file("kind", "key", "a").read_bytes() == b"one"
        assert reader.file("kind", "key", "deep/b").read_bytes() == b"two"


def test_nothing_is_left_of_the_work(store):
    publish(store, {"a": b"one"})
    if store.storage.local:
        assert os.listdir(store.storage.local / "artifacts" / ".scratch") == []
    [file] = (name for name in find(store) if name.endswith("/a"))
    assert find(store) == [file, "artifacts/kind/key/manifest.json"]


def test_the_manifest_comes_last(store, monkeypatch):
    """Whoever looks while an artifact is being published sees nothing, or all of it."""
    seen = []
    if store.storage.local is None:
        upload = Storage.upload

        def spy(storage, source, path):
            seen.append(again(store).manifest("kind", "key"))
            upload(storage, source, path)

        monkeypatch.setattr(Storage, "upload", spy)
    else:
        rename = Path.rename

        def move(source, target):
            seen.append(again(store).manifest("kind", "key"))
            return rename(source, target)

        monkeypatch.setattr(Path, "rename", move)
    publish(store, {"a": b"one", "b": b"two"})
    assert seen
    assert set(map(str, seen)) == {"None"}
    assert again(store).manifest("kind", "key") is not None


def alter(content):
    return content[:1] + bytes([content[1] ^ 1]) + content[2:]


@pytest.mark.parametrize(
    "damage", [alter, lambda content: content[:-1], lambda content: b"", lambda content: None]
)
def test_a_file_that_was_altered_truncated_or_removed_is_never_handed_out(store, damage):
    publish(store, {"a": b"one"})
    content = damage(b"one")
    if content is None:
        store.storage.remove(place_of(store, "a"))
    else:
        store.storage.write(place_of(store, "a"), content)
    with pytest.raises(Damaged, match="artifacts/kind/key/a"):
        again(store).file("kind", "key", "a")


def test_a_file_that_was_replaced_after_it_was_verified_is_not_handed_out(store):
    publish(store, {"a": b"one"})
    path = store.file("kind", "key", "a")
    assert store.file("kind", "key", "a") == path
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))  # same size, same time
    other.replace(path)
    if store.storage.local is None:  # this machine's copy is fetched again
        assert store.file("kind", "key", "a").read_bytes() == b"one"
    else:
        with pytest.raises(Damaged, match="kind/key/a does not match its checksum"):
            store.file("kind", "key", "a")


def test_an_artifact_with_an_altered_manifest_does_not_exist(store):
    publish(store, {"a": b"one"}, seconds=3)
    path = place_of(store, "manifest.json")
    content = store.storage.read(path)
    store.storage.write(path, content.replace(b'"seconds": 3', b'"seconds": 2'))
    assert again(store).manifest("kind", "key") is None
    store.storage.write(path, content)
    assert again(store).manifest("kind", "key")["seconds"] == 3


def test_a_file_that_the_manifest_lacks_is_not_there(store):
    publish(store, {"a": b"one"})
    with pytest.raises(Damaged, match="is missing"):
        store.file("kind", "key", "b")


def test_a_damaged_copy_of_a_remote_file_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    store = ArtifactStore(Storage(f"memory://{uuid.uuid4().hex}"))
    publish(store, {"a": b"one"})
    store.file("kind", "key", "a").write_bytes(b"bad")
    assert again(store).file("kind", "key", "a").read_bytes() == b"one"


def test_of_two_publishers_the_first_stays(store):
    publish(store, {"a": b"first"})
    before = find(store)
    publish(again(store), {"a": b"second", "b": b""})
    assert again(store).file("kind", "key", "a").read_bytes() == b"first"
    assert find(store) == before


def test_publishers_at_once_leave_one_whole_artifact(store):
    barrier = threading.Barrier(6)

    def work(number):
        mine = again(store)
        barrier.wait()
        publish(mine, {"a": b"%d" % number, "b": b"%d" % number})

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = again(store)
    assert reader.file("kind", "key", "a").read_bytes() == reader.file("kind", "key", "b").read_bytes()
    assert len(find(store)) == 3


def test_two_publishers_of_the_same_leave_a_whole_artifact(store):
    publish(store, {"a": b"same"})
    publish(again(store), {"a": b"same"})
    assert again(store).file("kind", "key", "a").read_bytes() == b"same"


def test_a_folder_without_a_manifest_is_replaced(store):
    store.storage.write("artifacts/kind/key/rubbish", b"of a process that died")
    assert store.manifest("kind", "key") is None
    publish(store, {"a": b"one"})
    assert again(store).file("kind", "key", "a").read_bytes() == b"one"


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": {"a"'])
def test_an_artifact_whose_manifest_was_cut_off_is_replaced(store, content):
    publish(store, {"a": b"one"})
    store.storage.write("artifacts/kind/key/manifest.json", content)
    fresh = again(store)
    assert fresh.manifest("kind", "key") is None
    publish(fresh, {"a": b"two"})
    assert fresh.file("kind", "key", "a").read_bytes() == b"two"


def test_a_discarded_artifact_is_gone_and_can_be_made_again(store):
    publish(store, {"a": b"one"})
    publish(store, {"a": b"else"}, key="other")
    store.file("kind", "key", "a")
    store.discard("kind", "key")
    assert store.manifest("kind", "key") is None
    with pytest.raises(Damaged):
        store.file("kind", "key", "a")
    assert store.file("kind", "other", "a").read_bytes() == b"else"
    publish(store, {"a": b"two"})
    assert store.file("kind", "key", "a").read_bytes() == b"two"


def test_the_manifest_is_plain_json_with_checksums(store):
    publish(store, {"a": b"abc"})
    manifest = json.loads(store.storage.read("artifacts/kind/key/manifest.json"))
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert manifest["files"] == {"a": {"bytes": 3, "sha256": expected}}


def test_an_artifact_that_was_made_again_since_is_not_discarded(store):
    publish(store, {"a": b"bad"})
    store.manifest("kind", "key")
    other = again(store)
    other.discard("kind", "key")
    publish(other, {"a": b"good"})
    store.discard("kind", "key")
    assert again(store).file("kind", "key", "a").read_bytes() == b"good"


def test_manifests_are_read_ahead_together(store, monkeypatch):
    for key in ("one", "two"):
        publish(store, {"a": b""}, key=key)
    fresh = again(store)
    fresh.prefetch([("kind", key) for key in ("one", "two", "three")])
    if store.storage.local is None:
        monkeypatch.setattr(Storage, "read", None)
    assert fresh.manifest("kind", "one")["files"] == fresh.manifest("kind", "two")["files"]
    monkeypatch.undo()
    assert fresh.manifest("kind", "three") is None


def test_one_at_a_time_makes_an_artifact(store, monkeypatch):
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.01)
    inside, most = [], []

    def work():
        with again(store).lock("kind", "key"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_locks_of_other_artifacts_do_not_wait(store):
    with store.lock("kind", "one"), store.lock("kind", "two"):
        pass
