"""The ridge probe: least squares on one-hot targets, solved in closed form."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled
from harness.features.heads.linear import Strength, linear_network

if TYPE_CHECKING:
    from torch import nn


class Ridge(Head):
    """Mean squared error + strength * |W|^2, the intercept free; scikit-learn's alpha is strength * N."""

    name: Literal["ridge"] = "ridge"
    strengths: list[Strength] = Field([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0], min_length=1)

    @property
    def seconds(self) -> float:
        """A guess for a thousand features of a few hundred images."""
        return 0.02

    def network(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns a linear layer on flattened features, in float64."""
        return linear_network(shape, classes)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses the strength by accuracy on `validation`, between equals by squared error there."""
        from harness.features.heads.least_squares import solutions, targets
        from harness.features.heads.logistic import as_network

        y_NC = targets(validation.labels_N, classes)
        x_ND = validation.x_ND.astype(np.float64)
        best, best_mark = None, (-1.0, 0.0)
        for found in solutions(train.x_ND, train.labels_N, classes, self.strengths, device):
            scores_NC = x_ND @ found.weights_DC + found.intercept_C
            right = float(np.mean(scores_NC.argmax(1) == validation.labels_N))
            mark = (right, -float(np.square(scores_NC - y_NC).mean()))
            if best is None or mark > best_mark:
                best, best_mark = found, mark
        assert best is not None
        return Fitted(as_network(best.weights_DC, best.intercept_C), best.strength)
