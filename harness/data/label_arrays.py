"""Labels as arrays: class numbers [N], -1 for images without a label.

Of multi-label data: 0 and 1 [N, K], whether each image is of each class, rows of -1 for images without labels.
"""

import numpy as np


def is_multilabel(labels: np.ndarray) -> bool:
    """Returns whether images may have several labels."""
    return labels.ndim == 2


def is_labelled(labels: np.ndarray) -> np.ndarray:
    """Returns which images have a label, bool [N]; an image known to be of no class has one."""
    return (labels[:, 0] if is_multilabel(labels) else labels) >= 0


def of_class(labels: np.ndarray, number: int) -> np.ndarray:
    """Returns which images are of a class, bool [N]."""
    found: np.ndarray = labels[:, number] == 1 if is_multilabel(labels) else labels == number
    return found


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns how many images each class has, int64 [classes]."""
    if is_multilabel(labels):
        return (labels == 1).sum(0)
    return np.bincount(labels[labels >= 0], minlength=classes)


def strata(labels: np.ndarray) -> np.ndarray:
    """Returns what a draw keeps in proportion, int64 [N]: an image's class, or the rarest of its classes.

    Images of no class are a stratum of their own, and so are those without a label (-1).
    """
    if not is_multilabel(labels):
        return labels
    classes = labels.shape[1]
    rank_K = np.argsort(np.argsort(class_counts(labels, classes), kind="stable"), kind="stable")
    rarest_N = np.where(labels == 1, rank_K, classes).argmin(1)
    return np.where(~is_labelled(labels), -1, np.where((labels == 1).any(1), rarest_N, classes))
