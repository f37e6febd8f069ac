"""Many calls in several processes: the same results, in order."""

import os

import pytest

from harness.data import parallel
from harness.data.parallel import in_parallel, one_by_one


def square(number):
    return number * number


def process(_):
    return os.getpid()


def fail(number):
    raise ValueError(f"number {number}")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_few_calls_start_no_processes():
    assert set(in_parallel(process, [(n,) for n in range(parallel.FEWEST - 1)])) == {os.getpid()}


@pytest.mark.slow  # starts processes
def test_many_calls_are_made_elsewhere_and_return_in_order():
    calls = [(n,) for n in range(parallel.FEWEST)]
    assert in_parallel(square, calls) == [n * n for n in range(parallel.FEWEST)]
    assert os.getpid() not in in_parallel(process, calls)


def test_results_come_one_by_one():
    made = []

    def noting(number):
        made.append(number)
        return number

    results = one_by_one(noting, [(n,) for n in range(5)])
    assert next(results) == 0
    assert made == [0]


@pytest.mark.parametrize("count", [3, pytest.param(parallel.FEWEST, marks=pytest.mark.slow)])
def test_an_error_reaches_the_caller(count):
    with pytest.raises(ValueError, match="number 0"):
        in_parallel(fail, [(n,) for n in range(count)])
