"""Accuracy, how certain it is, and whether two of them differ."""

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

Z_95 = float(norm.ppf(0.975))


class Accuracy(NamedTuple):
    """A share of correct predictions with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int

    def columns(self, name: str) -> dict[str, float | int]:
        """Returns the four columns that tables keep of it."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_n": self.n}


def accuracy(correct_N: np.ndarray) -> Accuracy:
    """Returns the accuracy of boolean `correct_N` with the Wilson score interval. Raises `ValueError` if empty."""
    n = len(correct_N)
    if n == 0:
        raise ValueError("accuracy of no predictions")
    p = float(np.mean(correct_N))
    centre = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 * np.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / (1 + Z_95**2 / n)
    return Accuracy(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n)


def paired_p_value(correct_a_N: np.ndarray, correct_b_N: np.ndarray) -> float:
    """Returns the p-value of the exact McNemar test that two classifiers are equally accurate.

    Both arrays are boolean and about the same samples; only samples on which they disagree tell.
    """
    a_alone = int(np.sum(correct_a_N & ~correct_b_N))
    b_alone = int(np.sum(correct_b_N & ~correct_a_N))
    return 1.0 if a_alone + b_alone == 0 else float(binomtest(a_alone, a_alone + b_alone).pvalue)
