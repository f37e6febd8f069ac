"""Tests of differences: the exact McNemar test of two classifiers, the Mann-Whitney score of two samples."""

import math

import numpy as np
from numpy.typing import ArrayLike


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


def mann_whitney(first: ArrayLike, second: ArrayLike) -> float | None:
    """Returns the z-score of the Mann-Whitney test, with ties.

    None where a side has fewer than two values or all are equal; missing ones do not count. Above 0
    means that `first` tends to be larger than `second`; beyond 1.96 either way is larger than noise.
    """
    first_n, second_n = _present(first), _present(second)
    n, m = len(first_n), len(second_n)
    if n < 2 or m < 2:
        return None
    _, inverse, counts = np.unique(
        np.concatenate([first_n, second_n]), return_inverse=True, return_counts=True
    )
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    u = float(rank[:n].sum()) - n * (n + 1) / 2
    ties = float(np.sum(counts.astype(float) ** 3 - counts)) / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else None


def _present(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]
