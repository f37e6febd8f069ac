"""Whether generated vectors are new: compares their distances and directions with those of held-out vectors.

The caller computes distances; G generated vectors are compared with H that were not used for training.
"""

from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata, tiecorrect

NEW_SHARE_OF_HELD_OUT = 0.05  # fraction of held-out vectors nearer than one that counts as new
ROUNDING = 1e-4  # relative margin of the threshold: distances on different machines differed by up to 3e-5
NUMBERS_AT_ONCE = 2**24  # numbers in float64 at a time
RANK_TOLERANCE = 1e-10  # relative to the largest eigenvalue: smaller ones are rounding
LENGTH_TOLERANCE = 1e-3  # relative to the originals' spread: a vector nearer to their mean has no direction


def copying_z(generated_G: np.ndarray, held_out_H: np.ndarray) -> float:
    """Returns Z_U, the Mann-Whitney score of generated against held-out distances to the nearest original.

    Far below 0: the generated are nearer to the originals than held-out ones, which means copying; 0: equally near;
    above 0: farther away. Ties count half and reduce the variance; 0 if all are equal. NaN if a side is empty.
    Meehan, Chaudhuri and Dasgupta 2020, "A non-parametric test to detect data-copying in generative
    models", section 3 (without its cells).
    """
    g, h = len(generated_G), len(held_out_H)
    both = np.concatenate([generated_G, held_out_H]).astype(np.float64)
    if g == 0 or h == 0 or np.isnan(both).any():
        return float("nan")
    ranks = rankdata(both)
    u = ranks[:g].sum() - g * (g + 1) / 2
    variance = g * h * (g + h + 1) / 12 * tiecorrect(ranks)
    return float((u - g * h / 2) / np.sqrt(variance)) if variance > 0 else 0.0


def newness_threshold(held_out_H: np.ndarray) -> float:
    """Returns the 5 % quantile of held-out distances to the nearest original; NaN if there are none."""
    return float(np.quantile(held_out_H, NEW_SHARE_OF_HELD_OUT)) if len(held_out_H) else float("nan")


def is_new(distance_N: np.ndarray | float, threshold: float) -> np.ndarray:
    """Returns whether distances reach the threshold, within a margin: one equal to it does, whatever the rounding."""
    return np.asarray(distance_N) >= threshold * (1 - ROUNDING)


def variance_ratio(generated_GP: np.ndarray, originals_KP: np.ndarray) -> float:
    """Returns the total variance of the generated over that of the originals; NaN if the originals have none."""
    if min(len(generated_GP), len(originals_KP)) < 2:
        return float("nan")
    generated, originals = (x.var(0, ddof=1, dtype=np.float64).sum() for x in (generated_GP, originals_KP))
    return float(generated / originals) if originals > 0 else float("nan")


def distance_to_mean(vectors_NP: np.ndarray, originals_KP: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance [N] to the originals' mean."""
    gaps = _gaps(vectors_NP, originals_KP.mean(0, dtype=np.float64))
    return np.concatenate([np.zeros(0), *(np.sqrt(np.square(gap_NP).mean(1)) for gap_NP in gaps)])


def distance_to_mean_of_others(originals_KP: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance [K] of each original to the mean of the others; NaN for K = 1."""
    k = len(originals_KP)
    if k < 2:
        return np.full(k, np.nan)
    return distance_to_mean(originals_KP, originals_KP) * k / (k - 1)


def off_span(vectors_NP: np.ndarray, originals_KP: np.ndarray) -> np.ndarray:
    """Returns the fraction [N], from 0 to 1, of the squared length of (v - mean) that no mix of originals can reach.

    The rest lies in the span of (originals - mean). NaN where v is within a thousandth of the originals' root mean
    square distance from the mean, and if there is only one original.
    """
    k = len(originals_KP)
    if k < 2:
        return np.full(len(vectors_NP), np.nan)
    centred_KP, values_R, axes_KR = _span(originals_KP)
    spread = np.square(centred_KP).sum() / k
    shares = [np.zeros(0)]
    for gap_NP in _gaps(vectors_NP, originals_KP.mean(0, dtype=np.float64)):
        inside_NR = (gap_NP @ centred_KP.T) @ (axes_KR / np.sqrt(values_R))
        square_N = np.square(gap_NP).sum(1)
        directed_N = square_N > LENGTH_TOLERANCE**2 * spread
        share_N = 1 - np.square(inside_NR).sum(1) / np.where(directed_N, square_N, 1)
        shares.append(np.where(directed_N, np.clip(share_N, 0, 1), np.nan))
    return np.concatenate(shares)


def off_span_of_others(originals_KP: np.ndarray) -> np.ndarray:
    """Returns `off_span` [K] of each original from the mean and the span of the others; NaN for fewer than 3.

    Computed without leaving out each in turn: with G the inner products of the centred originals, the distance of the
    i-th original from the affine span of the others is 1 / sqrt of the i-th diagonal entry of G's pseudo-inverse (the
    slope of its barycentric coordinate), and 0 if it takes part in a linear dependency of the centred originals.
    """
    k = len(originals_KP)
    if k < 3:
        return np.full(k, np.nan)
    centred_KP, values_R, axes_KR = _span(originals_KP)
    square_K = np.square(centred_KP).sum(1) * (k / (k - 1)) ** 2
    free_K = 1 - 1 / k - np.square(axes_KR).sum(1)  # how much each takes part in a dependency
    height_K = 1 / np.maximum(np.square(axes_KR / np.sqrt(values_R)).sum(1), np.finfo(np.float64).tiny)
    directed_K = square_K > LENGTH_TOLERANCE**2 * square_K.mean()
    share_K = np.where(free_K > 1e-8, 0.0, height_K / np.where(directed_K, square_K, 1))
    return np.where(directed_K, np.clip(share_K, 0, 1), np.nan)


def _gaps(vectors_NP: np.ndarray, mean_P: np.ndarray) -> Iterator[np.ndarray]:
    """Yields vectors minus the mean, in float64, as many at a time as memory allows."""
    step = max(1, NUMBERS_AT_ONCE // len(mean_P))
    for begin in range(0, len(vectors_NP), step):
        yield vectors_NP[begin : begin + step] - mean_P


def _span(originals_KP: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the centred originals, and the eigenvalues [R] and eigenvectors [K, R] of their inner products."""
    centred_KP = originals_KP - originals_KP.mean(0, dtype=np.float64)
    values_K, axes_KK = np.linalg.eigh(centred_KP @ centred_KP.T)
    kept = values_K > RANK_TOLERANCE * max(values_K[-1], np.finfo(np.float64).tiny)
    return centred_KP, values_K[kept], axes_KK[:, kept]
