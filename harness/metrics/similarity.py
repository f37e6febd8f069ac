"""How alike networks are: by their wrong predictions, and by their parameters."""

import numpy as np


def error_iou(wrong_AN: np.ndarray, wrong_BN: np.ndarray) -> np.ndarray:
    """Returns |Wa & Wb| / |Wa | Wb| for all pairs of networks [A, B] (p-diff, section 4.1).

    Arguments say, in booleans, which of the N samples each network gets wrong. Two networks that are both never
    wrong are alike: 0/0 is 1. One matrix product, exact in float32 up to 2**24 samples.
    """
    a_AN, b_BN = wrong_AN.astype(np.float32), wrong_BN.astype(np.float32)
    both_AB = a_AN @ b_BN.T
    either_AB = a_AN.sum(1)[:, None] + b_BN.sum(1)[None] - both_AB
    return np.where(either_AB == 0, 1.0, both_AB / np.maximum(either_AB, 1.0))


def root_mean_square_distance(a_AP: np.ndarray, b_BP: np.ndarray) -> np.ndarray:
    """Returns the root mean square difference of all pairs of vectors [A, B]."""
    squares = np.stack([np.square(a_P - b_BP).mean(1) for a_P in a_AP.astype(np.float64)])
    return np.sqrt(squares)


def nearest_other(values_AA: np.ndarray, best: str) -> np.ndarray:
    """Returns, for each row of a square table of pairs, its "largest" or "smallest" entry off the diagonal.

    NaN where there is no other.
    """
    if len(values_AA) < 2:
        return np.full(len(values_AA), np.nan)
    masked = np.array(values_AA, np.float64)
    np.fill_diagonal(masked, -np.inf if best == "largest" else np.inf)
    return masked.max(1) if best == "largest" else masked.min(1)
