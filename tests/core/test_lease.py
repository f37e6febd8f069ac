"""Leases: one holder at a time, given back, taken over from a machine that is gone."""

import threading
import time
import uuid

import pytest

from harness.core import lease as module
from harness.core.lease import _Lease, lease
from harness.core.storage import Storage


@pytest.fixture
def storage(monkeypatch):
    for name, seconds in (("RENEW_SECONDS", 0.02), ("GONE_SECONDS", 0.2), ("LOOK_SECONDS", 0.01)):
        monkeypatch.setattr(module, name, seconds)
    return Storage(f"memory://{uuid.uuid4().hex}")


def held_by_nobody(storage):
    return not storage.exists("leases/a")


def test_it_is_given_back_even_after_an_error(storage):
    def fail():
        with lease(storage, "leases/a"):
            assert not held_by_nobody(storage)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held_by_nobody(storage)


def test_others_wait_while_it_is_renewed_however_long(storage):
    order, told = [], []

    def second():
        with lease(storage, "leases/a", lambda: told.append(True)):
            order.append("second")

    with lease(storage, "leases/a"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(3 * module.GONE_SECONDS)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert told == [True]


def test_that_of_a_machine_that_is_gone_is_taken_over(storage):
    dead = _Lease(storage, "leases/a")
    assert storage.create("leases/a", dead._content())  # never renewed
    with lease(storage, "leases/a"):
        assert not dead._holds()
    assert held_by_nobody(storage)


def test_a_holder_that_slept_too_long_does_not_take_it_back(storage):
    sleeper = _Lease(storage, "leases/a")
    assert storage.create("leases/a", sleeper._content())
    with lease(storage, "leases/a"):
        sleeper._renewing.start()
        sleeper.release()
        assert not held_by_nobody(storage)
    assert held_by_nobody(storage)


def test_the_wall_clock_does_not_matter(storage, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with lease(storage, "leases/a"):
        pass
