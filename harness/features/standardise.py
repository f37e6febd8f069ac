"""The numbers that give features zero mean and unit standard deviation; constant features are only centred."""

from typing import NamedTuple

import numpy as np

from harness.features.lazy import Features, LazyFeatures, batches, changed

SMALLEST_DEVIATION = 1e-6  # features that deviate less count as constant


class Moments(NamedTuple):
    """What `standardised` subtracts from each feature and divides it by."""

    mean: np.ndarray  # float32, of the shape of a sample
    scale: np.ndarray
    constant_share: float  # features that are the same for all samples, 0 to 1


def scale_of(deviation: np.ndarray) -> np.ndarray:
    """Returns the divisor of each feature, from standard deviations of any shape: 1 for constants."""
    return np.where(deviation > SMALLEST_DEVIATION, deviation, 1.0)


def moments(x: Features) -> Moments:
    """Returns the moments of features, from one pass in float64.

    Sums are of differences from the first sample, so that constants are told from what varies exactly.
    """
    first = np.asarray(x[:1], np.float64)[0]
    sums, squares = np.zeros_like(first), np.zeros_like(first)
    for _, x_B in batches(x):
        difference_B = x_B - first
        sums += difference_B.sum(0)
        squares += np.square(difference_B, out=difference_B).sum(0)
    mean = sums / len(x)
    deviation = np.sqrt(np.maximum(squares / len(x) - np.square(mean), 0.0))
    return Moments(
        (first + mean).astype(np.float32),
        scale_of(deviation).astype(np.float32),
        float((squares == 0).mean()),
    )


def standardised(x: Features, by: Moments) -> LazyFeatures:
    """Returns features that are standardised when they are read."""

    def change(x_B: np.ndarray) -> np.ndarray:
        z_B: np.ndarray = x_B - by.mean
        z_B /= by.scale
        return z_B

    return changed(x, change)
