"""The exact McNemar test of two classifiers, and Student's interval of a mean."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Returns the two-sided exact p-value of McNemar's test.

    `first` and `second` say, sample by sample (n), whether each of two classifiers was right. Only samples on
    which they differ count; without any, the p-value is 1. Raises `ValueError` if the lengths differ.
    """
    first_n, second_n = np.asarray(first, bool), np.asarray(second, bool)
    if first_n.shape != second_n.shape or first_n.ndim != 1:
        raise ValueError(f"paired samples needed, found shapes {first_n.shape} and {second_n.shape}")
    wins = int(np.sum(first_n & ~second_n))
    losses = int(np.sum(second_n & ~first_n))
    total = wins + losses
    ways, tail = 1, 0  # ways = C(total, i), in whole numbers so that no rounding enters
    for i in range(min(wins, losses) + 1):
        tail += ways
        ways = ways * (total - i) // (i + 1)
    return min(1.0, 2 * tail / 2**total)


def t_interval(values: ArrayLike) -> tuple[float | None, float | None]:
    """Returns the ends of Student's 95 % interval of the mean; None where fewer than two or all are equal."""
    values_n = _present(values)
    if len(values_n) < 2 or np.ptp(values_n) == 0:
        return None, None
    half = float(stdtrit(len(values_n) - 1, 0.975) * values_n.std(ddof=1) / math.sqrt(len(values_n)))
    return float(values_n.mean()) - half, float(values_n.mean()) + half


def _present(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
