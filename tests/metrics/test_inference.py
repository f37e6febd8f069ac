"""Intervals and tests: against published examples, against SciPy, by counting and by simulation."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.multitest import multipletests

from harness.metrics.inference import (
    holm,
    mcnemar,
    paired_difference_interval,
    student_interval,
)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60).map(
    lambda x: np.array(x).T
)


def by_counting(a, b):
    """Counts, over all ways in which coins could decide the disagreements, those at least as lopsided."""
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    n = first + second
    ways = [comb(n, k) for k in range(n + 1) if abs(k - n / 2) >= abs(first - n / 2)]
    return sum(ways) / 2**n


@given(PAIRS)
def test_the_paired_test_is_the_exact_one_of_mcnemar(pair):
    assert mcnemar(*pair) == pytest.approx(by_counting(*pair), rel=1e-9)


@given(PAIRS)
def test_the_paired_test_knows_no_first_and_no_second(pair):
    assert mcnemar(*pair) == mcnemar(*pair[::-1])


@given(PAIRS, st.integers(0, 100))
def test_samples_on_which_both_agree_tell_nothing(pair, more):
    longer = np.concatenate([pair, np.ones((2, more), bool), np.zeros((2, more), bool)], 1)
    assert mcnemar(*longer) == pytest.approx(mcnemar(*pair))


@pytest.mark.parametrize("n", [1, 7, 100, 2_000, 10_000])
@pytest.mark.parametrize("shift", [0.0, 0.02, 0.3])
def test_mcnemar_is_the_binomial_test_of_discordant_samples(n, shift):
    rng = np.random.default_rng(n)
    first, second = rng.random(n) < 0.6 + shift, rng.random(n) < 0.6
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_the_same_predictions_is_one():
    assert mcnemar([True, False], [True, False]) == 1.0
    assert mcnemar([], []) == 1.0
    correct = np.array([True, False, True])
    assert mcnemar(correct, correct) == 1.0


@pytest.mark.parametrize("of_pairs", [mcnemar, paired_difference_interval])
def test_samples_have_to_pair(of_pairs):
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        of_pairs([True, False], [True, False, True])


def pair_of(both, first_alone, second_alone, neither):
    counts = (both, first_alone, second_alone, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("counts", "low", "high", "digits"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, 2635-2650), examples of method 10
        ((20, 12, 2, 16), 0.0562, 0.3292, 4),
        ((36, 12, 2, 0), 0.0569, 0.3404, 4),
        # Altman et al. 2000, "Statistics with Confidence", 2nd edition, table 6.2
        ((14, 5, 0, 22), 0.011, 0.226, 3),
        # Fagerland, Lydersen and Laake 2014 (Statistics in Medicine 33, 2850-2875), both examples
        ((1, 1, 7, 12), -0.507, -0.026, 3),
        ((59, 6, 16, 80), -0.1186, -0.0046, 4),
    ],
)
def test_the_interval_of_a_paired_difference_is_the_published_one(counts, low, high, digits):
    found = paired_difference_interval(*pair_of(*counts))
    assert tuple(round(end, digits) for end in found) == (low, high)


@given(PAIRS)
def test_the_interval_holds_the_difference_and_turns_round_with_the_sides(pair):
    low, high = paired_difference_interval(*pair)
    assert -1 - 1e-12 <= low <= pair[0].mean() - pair[1].mean() <= high <= 1 + 1e-12
    assert low < high
    assert paired_difference_interval(*pair[::-1]) == pytest.approx((-high, -low), abs=1e-12)


def test_the_interval_of_classifiers_that_never_disagree_has_a_width():
    low, high = paired_difference_interval(*pair_of(30, 0, 0, 10))
    assert low == pytest.approx(-high)
    assert 0.01 < high < 0.15


def test_no_samples_have_no_difference():
    with pytest.raises(ValueError, match="no samples"):
        paired_difference_interval([], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "shares"),
    [
        (40, (0.6, 0.15, 0.05, 0.2)),
        (40, (0.3, 0.2, 0.2, 0.3)),
        (300, (0.85, 0.06, 0.04, 0.05)),
        (300, (0.3, 0.2, 0.2, 0.3)),
        (300, (0.9, 0.02, 0.01, 0.07)),
    ],
)
def test_the_interval_of_a_paired_difference_covers_the_truth_about_95_times_in_100(n, shares):
    truth = shares[1] - shares[2]
    tables = np.random.default_rng(n).multinomial(n, shares, size=1000)
    found = [paired_difference_interval(*pair_of(*counts)) for counts in tables]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in found]) <= 0.985


def test_an_interval_of_few_disagreements_covers_more_rather_than_less():
    """40 samples with 1.2 disagreements on average: the normal interval often has no width."""
    shares = (0.9, 0.02, 0.01, 0.07)
    tables = np.random.default_rng(0).multinomial(40, shares, size=1000)
    found = [paired_difference_interval(*pair_of(*counts)) for counts in tables]
    assert np.mean([low <= 0.01 <= high for low, high in found]) >= 0.95
    gained = [np.subtract(*(side.astype(float) for side in pair_of(*counts))) for counts in tables]
    normal = [abs(one.mean() - 0.01) <= 1.96 * one.std() / np.sqrt(40) for one in gained]
    assert np.mean(normal) < 0.8


def test_the_interval_of_a_mean_is_student_s():
    values = np.random.default_rng(0).standard_normal(7) + 3
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert student_interval([*values, np.nan]) == pytest.approx((expected.low, expected.high))
    assert student_interval([1.0]) == student_interval([2.0, 2.0]) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5, 40])
def test_holm_is_that_of_statsmodels(count):
    p_values = np.random.default_rng(count).beta(0.2, 2, count)
    p_values[1] = p_values[0]
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values.tolist()) == pytest.approx(expected.tolist(), rel=1e-12)


def test_holm_by_hand():
    """The smallest of 4 times 4, the next times 3, and so on, never less than the one before, at most 1."""
    assert holm([0.01, None, 0.04, 0.005, 0.6]) == [pytest.approx(0.03), None, pytest.approx(0.08), 0.02, 0.6]
    assert holm([0.04, 0.03]) == [pytest.approx(0.06)] * 2
    assert holm([0.4] * 6) == [1.0] * 6
    assert holm([0.03]) == [0.03]
    assert holm([None]) == [None]
    assert holm([]) == []
