"""The scale that gives features unit standard deviation; constant features are left as they are."""

import numpy as np

SMALLEST_DEVIATION = 1e-6  # features that deviate less count as constant


def scale_of(deviation: np.ndarray) -> np.ndarray:
    """Returns the divisor of each feature, from standard deviations of any shape: 1 for constants."""
    return np.where(deviation > SMALLEST_DEVIATION, deviation, 1.0)
