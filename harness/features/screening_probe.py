"""A screening probe: a ridge probe on some of the labelled and validation images. Test images are not used.

Each image is predicted by the probe fitted on all others (leave-one-out), which the closed form yields at no extra
cost, so every image passed serves both training and evaluation.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from harness.core.config import part_of
from harness.core.stages import Context, Trial
from harness.data.dataset import open_dataset
from harness.data.label_arrays import is_multilabel
from harness.features.heads.choosing import ranked
from harness.features.heads.head import HEADS
from harness.features.heads.least_squares import targets
from harness.features.heads.principal_axes import PrincipalAxes
from harness.features.lazy import Features, in_memory
from harness.features.measure import judged
from harness.features.memory import read_in_batches
from harness.features.probe import image_passes, precision_of, read_features
from harness.features.standardise import moments, standardised

SMALLEST = 1e-9  # floor of 1 - leverage, which is zero if an image is predicted by itself alone


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, without what test images would show."""
    whole = open_dataset(trial.needs["dataset"], context)
    dataset = whole.thinned(trial.config["labels_per_class"], trial.config["images"])
    x_MCPP, _ = read_features(trial, context, dataset)
    labels_M, classes = dataset.labels[dataset.probed(None)], len(dataset.classes)
    head, dimensions = part_of(HEADS, trial.config["head"]), math.prod(x_MCPP.shape[1:])
    began = time.perf_counter()
    in_batches = read_in_batches(head, **trial.options)
    found = moments(x_MCPP)
    z_MCPP = standardised(x_MCPP, found)
    found_M, strength = best_left_out(
        z_MCPP if in_batches else in_memory(z_MCPP), labels_M, classes, head.strengths
    )
    row = {
        "caching": "cached",
        "reading": "in batches" if in_batches else "in memory",
        "precision": precision_of(trial, context),
        "constant_share": found.constant_share,
        "dimensions": dimensions,
        "parameter_count": (dimensions + 1) * classes,
        "regularisation": strength,
        "train_n": len(labels_M) - 1,
        "image_passes": image_passes(trial),
        **judged(found_M, labels_M).columns("validation"),
        "fit_seconds": time.perf_counter() - began,
    }
    return {"features": [row]}


def best_left_out(
    x_M: Features, labels_M: np.ndarray, classes: int, strengths: Sequence[float]
) -> tuple[np.ndarray, float]:
    """Returns the scores [M, C] of each image by a probe on the others, at the best strength, and that strength.

    The best has the highest accuracy, or mAP for labels [M, C] of 0 and 1; ties are broken by squared error. (An mAP
    of left-out scores is a little low: without a positive image, the mean of its class is lower.)
    """
    y_MC, several = targets(labels_M, classes), is_multilabel(labels_M)
    best, best_mark = (np.zeros((0, classes)), math.nan), (-1.0, 0.0)
    for strength, scores_MC in zip(strengths, left_out(x_M, y_MC, strengths), strict=True):
        right = ranked(scores_MC, labels_M) if several else float((scores_MC.argmax(1) == labels_M).mean())
        mark = (right, -float(np.square(scores_MC - y_MC).mean()))
        if mark > best_mark:
            best, best_mark = (scores_MC, strength), mark
    return best


def left_out(x_M: Features, y_MC: np.ndarray, strengths: Sequence[float]) -> Iterator[np.ndarray]:
    """Yields for each strength the scores [M, C] of each sample by a ridge probe on all others, intercept free.

    Features [M, ...] are standardised over all samples. With the fit's scores f and leverages h, a sample's left-out
    score is y - (y - f) / (1 - h). scikit-learn's alpha is strength * M. Raises `FloatingPointError` for features
    that are not finite.
    """
    axes = PrincipalAxes(x_M, "cpu")
    y = torch.from_numpy(y_MC)
    mean_C = y.mean(0)
    along_RC = torch.zeros(len(axes.squares_R), y.shape[1], dtype=torch.float64)
    for place, z_BR in axes.along():
        along_RC += z_BR.T @ (y[place] - mean_C)
    for strength in strengths:
        inverse_R = 1 / (axes.squares_R + axes.n * strength)
        scores_MC = torch.empty_like(y)
        for place, z_BR in axes.along():
            fitted_BC = mean_C + z_BR @ (inverse_R[:, None] * along_RC)
            leverage_B = z_BR.square() @ inverse_R + 1 / axes.n
            left_B = (1 - leverage_B).clamp(min=SMALLEST)
            scores_MC[place] = y[place] - (y[place] - fitted_BC) / left_B[:, None]
        yield scores_MC.numpy()
