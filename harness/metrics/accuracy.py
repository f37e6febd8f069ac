"""Accuracy with its confidence interval."""

from typing import NamedTuple

import numpy as np

from harness.metrics.inference import wilson_interval


class Accuracy(NamedTuple):
    """The fraction of correct predictions with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    n: int

    def columns(self, name: str) -> dict[str, float | int]:
        """Returns its four columns in tables."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_n": self.n}


def accuracy(correct_N: np.ndarray) -> Accuracy:
    """Returns the accuracy of boolean `correct_N` with the Wilson score interval. Raises `ValueError` if empty."""
    n = len(correct_N)
    if n == 0:
        raise ValueError("accuracy of no predictions")
    return Accuracy(float(np.mean(correct_N)), *wilson_interval(int(np.sum(correct_N)), n), n)
