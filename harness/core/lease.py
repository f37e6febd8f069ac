"""A lease on an object store: decides which of several machines makes something.

The holder renews its lease; a lease that has not changed for a while, by the waiter's own clock, is assumed to belong
to a lost machine and is taken over. Processes on the holder's machine notice its death at once. Two holders at the
same time are possible in rare races: this costs work, not results, since the first of two publishers wins.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.core.processes import machine, started
from harness.core.storage import Storage

RENEW_SECONDS = 10.0
GONE_SECONDS = 60.0  # without renewal
LOOK_SECONDS = 2.0


@contextmanager
def lease(storage: Storage, path: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lease at `path`; calls `waiting` once if another process holds it."""
    mine = _Lease(storage, path)
    mine.acquire(waiting)
    try:
        yield
    finally:
        mine.release()


class _Lease:
    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._owner = uuid.uuid4().hex
        self._process = [*machine(), os.getpid(), started(os.getpid())]
        self._beat = 0
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "process": self._process, "beat": self._beat}).encode()

    def acquire(self, waiting: Callable[[], None]) -> None:
        """Returns when the lease is held."""
        seen, since, told = b"", time.monotonic(), False
        while not self._storage.create(self._path, self._content()):
            if not told:
                waiting()
                told = True
            [found] = self._storage.read_many([self._path])
            if found != seen:
                seen, since = found or b"", time.monotonic()
            elif (time.monotonic() - since > GONE_SECONDS or _died(seen)) and self._take_over():
                break
            time.sleep(LOOK_SECONDS)
        self._renewing.start()

    def _take_over(self) -> bool:
        self._storage.write(self._path, self._content())
        time.sleep(LOOK_SECONDS)  # another waiter may do the same at this moment: the last to write gets it
        return self._holds()

    def _holds(self) -> bool:
        [found] = self._storage.read_many([self._path])
        return found is not None and self._owner.encode() in found

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                if not self._holds():
                    return
                self._beat += 1
                self._storage.write(self._path, self._content())
            except Exception:  # the store does not respond: retried at the next renewal
                continue

    def release(self) -> None:
        """Releases the lease, unless it was taken over."""
        self._ended.set()
        self._renewing.join()
        try:
            if self._holds():
                self._storage.remove(self._path)
        except Exception:  # the store does not respond: the lease is no longer renewed, so it expires
            return


def _died(content: bytes) -> bool:
    """Returns whether a lease belongs to a process of this machine that has exited."""
    try:
        *where, pid, born = json.loads(content)["process"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(where) and where == machine() and started(pid) != born
