"""A lease: who makes something that several machines could make, agreed on through an object store.

The holder renews its lease; one that has not changed for a while, by the waiter's own clock, belongs to a machine
that is gone and is taken over. On the holder's own machine others see at once that its process has died. Two holders
at once are possible in rare races: they cost work, not results, since of two publishers the first stays.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.storage import Storage

RENEW_SECONDS = 10.0
GONE_SECONDS = 60.0  # without renewal
LOOK_SECONDS = 2.0


@contextmanager
def lease(storage: Storage, path: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lease at `path`; calls `waiting` once if somebody else has it."""
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
        self._process = [*_machine(), os.getpid(), _born(os.getpid())]
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
        time.sleep(LOOK_SECONDS)  # another waiter may have had the same thought: the last to write has it
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
            except Exception:  # the store does not answer: the next beat tries again
                continue

    def release(self) -> None:
        """Gives the lease back, unless it was taken over."""
        self._ended.set()
        self._renewing.join()
        try:
            if self._holds():
                self._storage.remove(self._path)
        except Exception:  # the store does not answer: nobody renews it any more
            return


def _machine() -> list[str]:
    """Returns what processes have in common that see each other; empty where the system does not tell."""
    try:
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return []


def _born(pid: int) -> str | None:
    """Returns when a process of this machine began, None if it has ended: its number may be another's later."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else numbers[18]


def _died(content: bytes) -> bool:
    """Says whether a lease is that of a process of this machine that is no more."""
    try:
        *machine, pid, born = json.loads(content)["process"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(machine) and machine == _machine() and _born(pid) != born
