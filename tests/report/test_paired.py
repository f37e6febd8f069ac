"""The paired tests against SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest, mannwhitneyu

from harness.report.paired import mann_whitney, mcnemar


@pytest.mark.parametrize("n", [1, 7, 100, 2_000, 10_000])
@pytest.mark.parametrize("shift", [0.0, 0.02, 0.3])
def test_mcnemar_is_the_binomial_test_of_discordant_samples(n: int, shift: float) -> None:
    rng = np.random.default_rng(n)
    first, second = rng.random(n) < 0.6 + shift, rng.random(n) < 0.6
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_the_same_predictions_is_one() -> None:
    assert mcnemar([True, False], [True, False]) == 1.0
    assert mcnemar([], []) == 1.0


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        mcnemar([True, False], [True, False, True])


def test_mann_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 20, 80) + 2.0, rng.integers(0, 20, 50) + 0.0
    z = mann_whitney(first, second)
    expected = mannwhitneyu(first, second, use_continuity=False, method="asymptotic").pvalue
    assert z is not None
    assert z > 0
    assert 2 * (1 - _normal(abs(z))) == pytest.approx(expected, rel=1e-6)
    assert mann_whitney([*first, np.nan], second) == z


def test_mann_whitney_without_spread_or_values() -> None:
    assert mann_whitney([1.0, 1.0], [1.0, 1.0]) is None
    assert mann_whitney([1.0], [1.0, 2.0]) is None


def _normal(z: float) -> float:
    from math import erf, sqrt

    return (1 + erf(z / sqrt(2))) / 2
