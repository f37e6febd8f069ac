"""What a head is judged by: accuracy, or mean average precision where images have several labels."""

from typing import Any, NamedTuple

import numpy as np

from harness.core.stages import Trial
from harness.data.label_arrays import is_multilabel
from harness.features.tables import ACCURACY, MEAN_AVERAGE_PRECISION, correctness
from harness.metrics.accuracy import Estimate, accuracy
from harness.metrics.ranking import mean_average_precision


class Judged(NamedTuple):
    """How good a head's scores of a split are."""

    measure: str  # as in the names of columns
    estimate: Estimate
    right_N: np.ndarray | None  # which images are classified correctly; None if they have several labels

    def columns(self, split: str) -> dict[str, float | int]:
        """Returns its columns in the table `features`."""
        return self.estimate.columns(f"{split}_{self.measure}")


def judged(scores_NK: np.ndarray, labels: np.ndarray) -> Judged:
    """Returns the accuracy of the largest scores for class numbers [N], the mAP for labels [N, K] of 0 and 1."""
    if is_multilabel(labels):
        return Judged(MEAN_AVERAGE_PRECISION, mean_average_precision(scores_NK, labels), None)
    right_N = scores_NK.argmax(1) == labels
    return Judged(ACCURACY, accuracy(right_N), right_N)


def tables(
    trial: Trial, row: dict[str, Any], validation: Judged, test: Judged
) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, with what was measured, and one of `correctness` if images have one label."""
    found = {"features": [{**row, **validation.columns("validation"), **test.columns("test")}]}
    return found if test.right_N is None else {**found, "correctness": [correctness(trial, test.right_N)]}
