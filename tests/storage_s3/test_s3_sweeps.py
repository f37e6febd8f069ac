"""Whole sweeps with results on S3: the tables of a disk, whatever happens on the way."""

import os
from pathlib import Path

import pytest
from conftest import KEYS
from s3_proxy import PASSING, seeded
from s3_sweeps import assert_equal, finish, recordings, rows, start, write_small

from harness.cli import main
from harness.core.artifacts import ArtifactStore
from harness.core.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """An experiment, and its results after a sweep on a disk."""
    folder = tmp_path_factory.mktemp("disk")
    experiment = write_small(folder)
    assert main(["sweep", str(experiment), "--results", str(folder / "results"), "--debug"]) == 0
    return experiment, Storage(str(folder / "results"))


@pytest.fixture(scope="module")
def expected(disk):
    """The tables of that sweep."""
    return rows(disk[1])


def run(experiment, storage, *options):
    """Sweeps in a process of its own, which has nothing in memory of what others read and made."""
    status, said, complained = finish(start(experiment, storage.url, "--debug", *options))
    assert status == 0, said + complained


def stored(client, storage):
    """Returns everything in a bucket, by path below the results."""
    bucket, root = storage.root.split("/", 1)
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
            found[entry["Key"].removeprefix(f"{root}/")] = body.read()
    return found


def check_artifacts(objects, storage, disk):
    """Checks that the artifacts are those on the disk, each once and whole, with nothing left beside them."""
    there = {path.rsplit("/", 1)[0] for path in objects if path.endswith("manifest.json")}
    kept = {
        str(path.parent.relative_to(disk.local)) for path in disk.local.glob("artifacts/*/*/manifest.json")
    }
    assert there == kept
    store, files = ArtifactStore(storage), len(there)
    for place in there:
        _, kind, key = place.split("/")
        for name in store.manifest(kind, key)["files"]:
            store.file(kind, key, name)  # raises if it is damaged
            files += 1
    assert len([path for path in objects if path.startswith("artifacts/")]) == files


def test_a_store_that_fails_and_waits_and_cuts_gives_the_tables_of_a_disk(
    proxy, client, storage, disk, expected
):
    experiment, on_disk = disk
    proxy.rule = seeded(0, share=0.1)
    run(experiment, storage)
    assert set(proxy.faults) == set(PASSING)
    assert sum(proxy.faults.values()) > 20
    proxy.reset()
    assert_equal(rows(storage), expected)
    assert set(recordings(storage)) == {1}
    check_artifacts(stored(client, storage), storage, on_disk)


def test_two_sweeps_of_the_same_at_once_leave_what_one_leaves(client, storage, disk, expected):
    experiment, on_disk = disk
    sweeps = [start(experiment, storage.url, "--debug") for _ in range(2)]
    ends = [finish(sweep) for sweep in sweeps]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert_equal(rows(storage), expected)
    check_artifacts(stored(client, storage), storage, on_disk)


def size(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def test_a_cache_smaller_than_the_artifacts_is_enough_and_holds_no_more(
    client, storage, disk, expected, monkeypatch
):
    bound = 300_000
    monkeypatch.setenv("HARNESS_CACHE_GB", str(bound / 1e9))
    run(disk[0], storage)
    assert_equal(rows(storage), expected)
    artifacts = [
        content for path, content in stored(client, storage).items() if path.startswith("artifacts/")
    ]
    assert 0 < size(os.environ["HARNESS_CACHE"]) <= bound < sum(map(len, artifacts))


DAMAGES = {
    "dataset": lambda content: b"",
    "backbone": lambda content: content[: len(content) // 2],
    "features": lambda content: content[:-8] + bytes(byte ^ 1 for byte in content[-8:]),
}


def test_artifacts_that_were_damaged_in_the_bucket_are_made_again_and_never_read(
    client, storage, disk, expected, monkeypatch, tmp_path
):
    experiment, on_disk = disk
    others = ["--set", "weights=null", "--set", "features.heads=[{name: mlp, hidden: [4]}]"]
    assert main(["sweep", str(experiment), "--results", storage.url, "--debug", *others]) == 0
    damaged = 0
    for path, content in stored(client, storage).items():
        kind = path.split("/")[1]
        if kind in DAMAGES and path.startswith("artifacts/") and path.endswith(".safetensors"):
            storage.write(path, DAMAGES[kind](content))
            damaged += 1
    assert damaged >= 5
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "of another machine"))
    run(experiment, storage)
    assert_equal(rows(storage), expected)
    check_artifacts(stored(client, storage), storage, on_disk)


FAIL = """
import os
from harness.features.heads.linear import Linear
def fail(*arguments):
    raise RuntimeError(f"{os.environ['AWS_ACCESS_KEY_ID']} {os.environ['AWS_SECRET_ACCESS_KEY']}")
Linear.fit = fail
print("the head sees", len(os.environ["AWS_SESSION_TOKEN"]))
"""


def test_credentials_are_in_nothing_that_is_kept_or_shown(client, storage, tmp_path):
    process = start(write_small(tmp_path), storage.url, "--debug", "--set", "weights=null", code=FAIL)
    status, said, complained = finish(process)
    assert status == 1
    assert "7 failed" in said
    assert "the head sees" in said
    objects = stored(client, storage)
    assert rows(storage)["features"].error.str.contains(r"RuntimeError: \*\*\* \*\*\*").all()
    assert {"small/report.html", "small/features.parquet", "rows/SCHEMA.json"} <= set(objects)
    for secret in KEYS.values():
        assert secret not in said + complained
        assert [path for path, content in objects.items() if secret.encode() in content] == []
