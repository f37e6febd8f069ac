"""What features are divided by to have unit deviation; constants are left as they are."""

import numpy as np

SMALLEST_DEVIATION = 1e-6  # numbers that deviate less are constants


def scale_of(deviation: np.ndarray) -> np.ndarray:
    """Returns the divisor of each number, of any shape, from its standard deviation: 1 for constants."""
    return np.where(deviation > SMALLEST_DEVIATION, deviation, 1.0)
