"""Mean average precision of multi-label scores, with its confidence interval.

Legend: N images, K classes, R resamples.
"""

import numpy as np
from scipy import stats

from harness.core.seeds import rng
from harness.metrics.accuracy import Estimate
from harness.metrics.inference import LEVEL

RESAMPLES = 200  # of the bootstrap: its standard error is known to about 5 %


def average_precisions(scores_NK: np.ndarray, labels_NK: np.ndarray) -> np.ndarray:
    """Returns the average precision of each class, float64 [K]; NaN for a class without a positive image (label 1).

    The sum over thresholds of precision times the recall gained, equal scores being one threshold: scikit-learn's
    `average_precision_score`.
    """
    return _weighted(scores_NK, labels_NK, np.ones((len(scores_NK), 1), np.int32))[:, 0]


def mean_average_precision(scores_NK: np.ndarray, labels_NK: np.ndarray) -> Estimate:
    """Returns the mean over classes with a positive image, with its interval over images.

    The interval is the mean ± 1.96 standard errors, within 0 to 1; the standard error is the deviation of the mean
    over bootstrap resamples of the images, the same for all scores of as many images. (Percentiles of the resamples
    would be too high: an image that is drawn twice ranks beside its copy.) Raises `ValueError` if no class has a
    positive image, or for scores that are not finite.
    """
    n = len(scores_NK)
    if not (labels_NK == 1).any():
        raise ValueError("mean average precision without a positive image")
    if not np.isfinite(scores_NK).all():
        raise ValueError("mean average precision of scores that are not finite")
    value = float(np.nanmean(average_precisions(scores_NK, labels_NK)))
    found_KR = _weighted(scores_NK, labels_NK, _resamples(n))
    known_KR = ~np.isnan(found_KR)
    counts_R = known_KR.sum(0)
    means = np.where(known_KR, found_KR, 0.0).sum(0)[counts_R > 0] / counts_R[counts_R > 0]
    room = float(stats.norm.ppf((1 + LEVEL) / 2) * means.std(ddof=1)) if len(means) > 1 else 1.0
    return Estimate(value, max(0.0, value - room), min(1.0, value + room), n)


def _resamples(n: int) -> np.ndarray:
    """Returns how often each image is in each resample, int32 [N, R]."""
    draw = rng(0, "bootstrap", n)
    counts = [np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(RESAMPLES)]
    return np.stack(counts, 1).astype(np.int32)


def _weighted(scores_NK: np.ndarray, labels_NK: np.ndarray, weights_NR: np.ndarray) -> np.ndarray:
    """Returns average precisions [K, R] with each image counted as often as its weight says."""
    found_KR = np.full((scores_NK.shape[1], weights_NR.shape[1]), np.nan)
    for number, (scores_N, labels_N) in enumerate(zip(scores_NK.T, labels_NK.T, strict=True)):
        order = np.argsort(-scores_N, kind="stable")
        positive_N = labels_N[order] == 1
        if not positive_N.any():
            continue
        sorted_N = scores_N[order]
        group_N = np.concatenate(
            [[0], np.cumsum(sorted_N[1:] != sorted_N[:-1])]
        )  # equal scores are one threshold
        # thresholds are only needed where recall grows; what lies between two of them is counted together
        groups_T = np.unique(group_N[positive_N])
        starts_T = np.concatenate([[0], np.searchsorted(group_N, groups_T[:-1], "right")])
        last = int(np.searchsorted(group_N, groups_T[-1], "right"))
        weights = weights_NR[order[:last]]
        seen_TR = np.add.reduceat(weights, starts_T, axis=0).cumsum(0, dtype=np.int64)
        gained_TR = np.add.reduceat(
            weights[positive_N[:last]],
            np.searchsorted(np.flatnonzero(positive_N), starts_T),
            axis=0,
        ).astype(np.int64)
        true_TR = gained_TR.cumsum(0)
        precision_TR = true_TR / np.maximum(seen_TR, 1)
        total_R = true_TR[-1]
        with np.errstate(invalid="ignore"):
            found_KR[number] = (precision_TR * gained_TR).sum(0) / np.where(total_R > 0, total_R, np.nan)
    return found_KR
