"""Accuracy and its interval, against SciPy and by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from harness.metrics.accuracy import accuracy

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=200).map(np.array)


@given(OUTCOMES)
def test_the_interval_is_wilsons(correct):
    found = accuracy(correct)
    expected = binomtest(int(correct.sum()), len(correct)).proportion_ci(0.95, method="wilson")
    assert found.value == correct.sum() / len(correct)
    assert found.n == len(correct)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.value + 1e-15
    assert found.value - 1e-15 <= found.high <= 1


def test_the_interval_covers_the_truth_about_95_times_in_100():
    """Exact, by summing the binomial distribution over all outcomes, then averaging over many truths."""
    n = 60
    intervals = [accuracy(np.arange(n) < k) for k in range(n + 1)]
    truths = np.linspace(0.02, 0.98, 97)
    covers = [
        sum(binom.pmf(k, n, p) for k, one in enumerate(intervals) if one.low <= p <= one.high) for p in truths
    ]
    assert np.mean(covers) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("n", [1, 5, 10_000])
def test_nothing_and_everything_correct_have_an_interval_of_some_width(n):
    none, every = accuracy(np.zeros(n, bool)), accuracy(np.ones(n, bool))
    assert none.low == 0 < none.high
    assert every.low < 1 == every.high
    assert none.high == pytest.approx(1 - every.low)


def test_no_predictions_have_no_accuracy():
    with pytest.raises(ValueError, match="no predictions"):
        accuracy(np.array([], bool))


def test_an_accuracy_has_four_columns():
    columns = accuracy(np.array([True, False])).columns("test_accuracy")
    assert list(columns) == ["test_accuracy", "test_accuracy_low", "test_accuracy_high", "test_accuracy_n"]
    assert columns["test_accuracy"] == 0.5
    assert columns["test_accuracy_n"] == 2
