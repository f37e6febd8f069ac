"""Storage on S3 when its requests fail, wait and end half-way."""

import subprocess
import sys
import threading
import time

import pytest
from s3_proxy import PASSING, Fault, first_time

from harness.core import storage as module
from harness.core.artifacts import ArtifactStore
from harness.core.errors import UserError
from harness.core.lease import GONE_SECONDS, lease
from harness.core.storage import Storage, Unanswered


def test_of_many_threads_that_create_a_file_one_succeeds(storage):
    barrier, succeeded = threading.Barrier(8), []

    def create(number):
        mine = Storage(storage.url)
        barrier.wait()
        for name in "abc":
            if mine.create(name, b"%d" % number):
                succeeded.append((name, b"%d" % number))

    threads = [threading.Thread(target=create, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(succeeded) == list(zip("abc", storage.read_many("abc"), strict=True))


CREATE = """
import sys
from harness.core.storage import Storage
storage = Storage(sys.argv[1])
sys.stdin.readline()
print(*(name for name in map(str, range(10)) if storage.create(name, sys.argv[2].encode())))
"""


@pytest.mark.slow
def test_of_many_processes_that_create_a_file_one_succeeds(storage):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, storage.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    succeeded = {
        name: number
        for number, process in enumerate(processes)
        for name in process.communicate(timeout=60)[0].split()
    }
    names = [str(number) for number in range(10)]
    assert [b"%d" % succeeded[name] for name in names] == storage.read_many(names)


WAITED_FOR = ("InternalError", "SlowDown")  # botocore pauses before it asks again, for up to a second


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in WAITED_FOR)) for kind in PASSING]
)
def test_requests_that_fail_at_first_succeed_in_the_end(storage, proxy, tmp_path, kind):
    content = bytes(range(256)) * 1000
    (tmp_path / "source").write_bytes(content)
    proxy.rule = first_time(kind, seconds=0.1)
    storage.write("written", content)
    storage.upload(tmp_path / "source", "uploaded")
    storage.download("written", tmp_path / "target")
    assert storage.create("created", content)
    assert (tmp_path / "target").read_bytes() == content
    assert storage.read_many(["uploaded", "created", "missing"]) == [content, content, None]
    assert proxy.faults[kind] >= 6


def test_a_file_that_was_created_with_its_answer_lost_is_counted_as_ours(storage, proxy):
    proxy.rule = first_time("lost")
    assert storage.create("file", b"mine")
    assert not storage.create("file", b"of another")
    assert storage.read("file") == b"mine"
    assert [request.create for request in proxy.requests if request.method == "PUT"][1:] == [True] * 3


def test_a_store_that_does_not_say_which_condition_failed_is_understood(storage, proxy):
    """As MinIO, Ceph and R2 answer."""
    storage.write("file", b"of another")
    proxy.rule = lambda request: Fault("PreconditionFailed") if request.create else None
    assert not storage.create("file", b"mine")
    assert len([request for request in proxy.requests if request.create]) == 1


def test_an_answer_that_will_not_change_is_not_asked_for_again(storage, proxy):
    proxy.rule = lambda request: Fault("AccessDenied")
    for ask in (lambda: storage.read("file"), lambda: storage.write("file", b"")):
        proxy.requests.clear()
        with pytest.raises(UserError, match="permission denied: AccessDenied of the proxy"):
            ask()
        assert len(proxy.requests) == 1


def test_a_file_is_read_in_one_request_whether_or_not_it_is_there(storage, proxy):
    storage.write("file", b"content")
    proxy.requests.clear()
    assert storage.read_many(["file", "missing"]) == [b"content", None]
    assert [request.method for request in proxy.requests] == ["GET", "GET"]


def test_a_store_that_never_answers_is_reported_in_words(storage, proxy, monkeypatch):
    monkeypatch.setattr(module, "PAUSES", (0.01,))
    proxy.rule = lambda request: Fault("PreconditionFailed")  # which botocore and s3fs do not repeat
    with pytest.raises(
        Unanswered, match=f"{storage.url}: .*PreconditionFailed of the proxy; recorded results are kept"
    ):
        storage.read("file")
    assert [request.method for request in proxy.requests][1:] == ["GET", "GET"]


def publish(store, content):
    with store.scratch() as folder:
        (folder / "file").write_bytes(content)
        store.publish("kind", "key", folder, {})


def test_a_damaged_copy_on_this_machine_is_fetched_again_and_the_artifact_stays(storage, proxy):
    publish(ArtifactStore(storage), b"good")
    copy = ArtifactStore(storage).file("kind", "key", "file")
    before = storage.names("artifacts/kind/key")
    for content in (b"", b"goo", b"gone", b"goody"):
        copy.write_bytes(content)
        proxy.requests.clear()
        assert ArtifactStore(storage).file("kind", "key", "file").read_bytes() == b"good"
        assert {request.method for request in proxy.requests} == {"GET"}
    assert storage.names("artifacts/kind/key") == before


def test_publishers_whose_answers_are_lost_leave_one_whole_artifact(storage, proxy):
    proxy.rule = first_time("lost")
    publish(ArtifactStore(storage), b"first")
    publish(ArtifactStore(storage), b"second")
    proxy.reset()
    assert ArtifactStore(storage).file("kind", "key", "file").read_bytes() == b"first"
    assert len(storage.fs.find(storage.full("artifacts/kind/key"))) == 2


@pytest.mark.parametrize("name", ["run[1]", "run*", "run?"])
def test_a_name_that_would_be_taken_for_a_pattern_is_refused(name):
    with pytest.raises(UserError, match="must not contain"):
        Storage(f"memory://bucket/{name}")


def test_names_of_other_kinds_are_kept_as_they_are(url):
    storage = Storage(f"{url}/a b%20c+é#1")
    storage.write("x/a", b"1")
    assert storage.read_many(["x/a", "x/b"]) == [b"1", None]
    assert storage.names("x") == ["a"]
    storage.remove("x/a")
    assert not storage.exists("x/a")


HOLD = """
import sys, time
from harness.core.lease import lease
from harness.core.storage import Storage
with lease(Storage(sys.argv[1]), "leases/a"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_the_lease_of_a_process_that_was_killed_on_this_machine_is_free(storage):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, storage.url], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    began = time.monotonic()
    with lease(storage, "leases/a"):
        assert time.monotonic() - began < GONE_SECONDS / 2
