"""Intervals and tests, from SciPy and statsmodels: Wilson, Student, Newcombe; McNemar, Holm.

Intervals are two-sided, at 95 %. Pairs are boolean arrays [N]: whether two classifiers are right on the same samples.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95  # of all intervals


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion of `n` > 0 samples, within 0 to 1."""
    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    return 0.0 if successes == 0 else float(low), 1.0 if successes == n else float(high)  # without rounding


def student_interval(values: ArrayLike) -> tuple[float | None, float | None]:
    """Returns Student's interval of the mean of the finite values; None for fewer than two or if all are equal."""
    array = np.asarray(values, float)
    values_N = array[np.isfinite(array)]
    if len(values_N) < 2 or np.ptp(values_N) == 0:
        return None, None
    low, high = stats.t.interval(LEVEL, len(values_N) - 1, loc=values_N.mean(), scale=stats.sem(values_N))
    return float(low), float(high)


def mcnemar(first_N: ArrayLike, second_N: ArrayLike) -> float:
    """Returns the two-sided p-value of the exact McNemar test that two classifiers are equally accurate.

    Only samples on which exactly one is right count; without any, the p-value is 1. Raises `ValueError` if the
    samples are not paired.
    """
    return float(statsmodels_mcnemar(_paired_table(first_N, second_N), exact=True).pvalue)


def paired_difference_interval(first_N: ArrayLike, second_N: ArrayLike) -> tuple[float, float]:
    """Returns Newcombe's hybrid score interval of the first accuracy minus the second, on N > 0 paired samples.

    Combines the Wilson intervals of both accuracies, with the correlation of the pairs corrected for continuity:
    method 10 of Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", Statistics in Medicine 17. It stays within -1 to 1 and is wider than zero even if the classifiers
    never disagree; statsmodels only has intervals for independent samples. Raises `ValueError` if the samples are not
    paired or there are none.
    """
    table = _paired_table(first_N, second_N)
    (both, first_alone), (second_alone, neither) = table.tolist()
    n = both + first_alone + second_alone + neither
    if n == 0:
        raise ValueError("no samples to compare on")
    right_1, right_2 = both + first_alone, both + second_alone
    p_1, p_2 = right_1 / n, right_2 / n
    (low_1, high_1), (low_2, high_2) = wilson_interval(right_1, n), wilson_interval(right_2, n)
    phi = _corrected_phi(table)
    below = _combined(p_1 - low_1, high_2 - p_2, phi)
    above = _combined(high_1 - p_1, p_2 - low_2, phi)
    return p_1 - p_2 - below, p_1 - p_2 + above


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values adjusted for multiple comparisons by Holm's method; None stays None and is not counted."""
    known = [p for p in p_values if p is not None]
    with _nothing_to_collect():
        left = iter(multipletests(known, method="holm")[1].tolist() if known else [])
    return [None if p is None else next(left) for p in p_values]


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Hides all objects from the garbage collector: statsmodels collects garbage in each call of Holm's method.

    With torch imported, that takes up to half a second, and a page makes hundreds of calls.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _paired_table(first_N: ArrayLike, second_N: ArrayLike) -> np.ndarray:
    """Returns counts [2, 2]: first right and wrong in rows, second right and wrong in columns."""
    first, second = np.asarray(first_N, bool), np.asarray(second_N, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"samples must be paired, got shapes {first.shape} and {second.shape}")
    both = int(np.sum(first & second))
    first_right, second_right = int(first.sum()), int(second.sum())
    neither = len(first) - first_right - second_right + both
    return np.array([[both, first_right - both], [second_right - both, neither]])


def _corrected_phi(table: np.ndarray) -> float:
    """Returns the correlation of the pairs, its numerator reduced by N / 2 if positive; 0 if undefined."""
    (both, first_alone), (second_alone, neither) = table.tolist()
    sides = [float(count) for count in (*table.sum(0), *table.sum(1))]
    if 0.0 in sides:
        return 0.0
    covariance = both * neither - first_alone * second_alone
    if covariance > 0:
        covariance = max(covariance - table.sum() / 2, 0.0)
    return float(covariance / np.sqrt(np.prod(sides)))


def _combined(first: float, second: float, phi: float) -> float:
    """Returns the distance from a difference to its bound, given those of both accuracies."""
    return float(np.sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2)))
