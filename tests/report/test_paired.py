"""The paired test against SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from harness.report.paired import mcnemar


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
