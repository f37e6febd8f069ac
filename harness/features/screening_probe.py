"""A screening probe: a ridge probe on some of the labelled and validation images. Test images are not used.

Each image is predicted by the probe fitted on all others (leave-one-out), which the closed form yields at no extra
cost, so every image passed serves both training and evaluation.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.core.config import part_of
from harness.core.stages import Context, Trial
from harness.data.dataset import open_dataset
from harness.features.heads.head import HEADS
from harness.features.heads.least_squares import refuse_infinite, targets
from harness.features.probe import constant_share, image_passes, precision_of, read_features
from harness.features.standardise import scale_of
from harness.metrics.accuracy import accuracy

SMALLEST = 1e-9  # floor of 1 - leverage, which is zero if an image is predicted by itself alone


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, without test accuracy."""
    whole = open_dataset(trial.needs["dataset"], context)
    dataset = whole.thinned(trial.config["labels_per_class"], trial.config["images"])
    x_MCPP, _ = read_features(trial, context, dataset)
    labels_M = dataset.labels[dataset.probed(None)]
    strengths = part_of(HEADS, trial.config["head"]).strengths
    began = time.perf_counter()
    x_MD = x_MCPP.reshape(len(x_MCPP), -1)
    right_M, strength = best_left_out(x_MD, labels_M, len(dataset.classes), strengths)
    row = {
        "caching": "cached",
        "precision": precision_of(trial, context),
        "constant_share": constant_share(x_MD),
        "dimensions": x_MD.shape[1],
        "parameter_count": (x_MD.shape[1] + 1) * len(dataset.classes),
        "regularisation": strength,
        "train_n": len(labels_M) - 1,
        "image_passes": image_passes(trial),
        **accuracy(right_M).columns("validation_accuracy"),
        "fit_seconds": time.perf_counter() - began,
    }
    return {"features": [row]}


def best_left_out(
    x_MD: np.ndarray, labels_M: np.ndarray, classes: int, strengths: Sequence[float]
) -> tuple[np.ndarray, float]:
    """Returns which images the others predict correctly, bool [M], at the best strength, and that strength."""
    y_MC = targets(labels_M, classes)
    best, best_mark = (np.zeros(0, bool), math.nan), (-1.0, 0.0)
    for strength, scores_MC in zip(strengths, left_out(x_MD, y_MC, strengths), strict=True):
        right_M = scores_MC.argmax(1) == labels_M
        mark = (float(right_M.mean()), -float(np.square(scores_MC - y_MC).mean()))
        if mark > best_mark:
            best, best_mark = (right_M, strength), mark
    return best


def left_out(x_MD: np.ndarray, y_MC: np.ndarray, strengths: Sequence[float]) -> Iterator[np.ndarray]:
    """Yields for each strength the scores [M, C] of each sample by a ridge probe on all others, intercept free.

    Features are standardised over all samples. With the fit's scores f and leverages h, a sample's
    left-out score is y - (y - f) / (1 - h). scikit-learn's alpha is strength * M. Raises `FloatingPointError` for
    features that are not finite.
    """
    refuse_infinite(x_MD)
    count = len(x_MD)
    z_MD = (x_MD - x_MD.mean(0)).astype(np.float64) / scale_of(x_MD.std(0))
    z_MD -= z_MD.mean(0)
    axes_MR, singular_R, _ = np.linalg.svd(z_MD, full_matrices=False)
    mean_C = y_MC.mean(0)
    along_RC = axes_MR.T @ (y_MC - mean_C)
    for strength in strengths:
        kept_R = np.square(singular_R) / (np.square(singular_R) + count * strength)
        fitted_MC = mean_C + axes_MR @ (kept_R[:, None] * along_RC)
        leverage_M = np.square(axes_MR) @ kept_R + 1 / count
        yield y_MC - (y_MC - fitted_MC) / np.maximum(1 - leverage_M, SMALLEST)[:, None]
