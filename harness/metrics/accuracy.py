"""A measured share with its confidence interval; accuracy."""

from typing import NamedTuple

import numpy as np

from harness.metrics.inference import wilson_interval


class Estimate(NamedTuple):
    """A share from 0 to 1, such as an accuracy, with its 95 % confidence interval and the number of samples."""

    value: float
    low: float
    high: float
    n: int

    def columns(self, name: str) -> dict[str, float | int]:
        """Returns its four columns in tables."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high, f"{name}_n": self.n}


def accuracy(correct_N: np.ndarray) -> Estimate:
    """Returns the accuracy of boolean `correct_N` with the Wilson score interval. Raises `ValueError` if empty."""
    n = len(correct_N)
    if n == 0:
        raise ValueError("accuracy of no predictions")
    return Estimate(float(np.mean(correct_N)), *wilson_interval(int(np.sum(correct_N)), n), n)
