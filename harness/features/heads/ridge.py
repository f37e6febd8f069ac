"""The ridge probe: least squares on targets of +1 and -1 for each class, solved in closed form."""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.data.label_arrays import is_multilabel
from harness.features.heads.head import Fitted, Head, Labelled
from harness.features.heads.least_squares import solving_bytes
from harness.features.heads.linear import Strength, linear_module

if TYPE_CHECKING:
    from torch import nn


class Ridge(Head):
    """Mean squared error + strength * |W|^2, with a free intercept; scikit-learn's alpha is strength * N."""

    name: Literal["ridge"] = "ridge"
    strengths: list[Strength] = Field([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0], min_length=1)

    in_batches: ClassVar[bool] = True
    multilabel: ClassVar[bool] = True

    @property
    def seconds(self) -> float:
        """An estimate for a thousand features of a few hundred images."""
        return 0.02

    def working_bytes(self, samples: int, dimensions: int, classes: int) -> float:
        """Returns the bytes of the products of the features, of decomposing them, and of a few sets of weights."""
        return solving_bytes(samples, dimensions) + 4 * 8 * dimensions * classes

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns a linear layer on flattened features, in float64."""
        return linear_module(shape, classes)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses the strength by accuracy, or mAP, on `validation`; ties are broken by squared error."""
        from harness.features.heads.choosing import ranked
        from harness.features.heads.least_squares import solutions, targets
        from harness.features.heads.logistic import as_module

        best, best_mark = None, (-1.0, 0.0)
        several = is_multilabel(train.labels_N)
        for found in solutions(train.x, train.labels_N, classes, self.strengths, device):
            right, error, scores = 0.0, 0.0, []
            for x_BD, labels_B in validation.batches():
                scores_BC = x_BD.astype(np.float64) @ found.weights_DC + found.intercept_C
                if several:
                    scores.append(scores_BC)
                else:
                    right += int(np.sum(scores_BC.argmax(1) == labels_B))
                error += float(np.square(scores_BC - targets(labels_B, classes)).sum())
            if several:
                right = ranked(np.concatenate(scores), validation.labels_N)
            if best is None or (right, -error) > best_mark:
                best, best_mark = found, (right, -error)
        assert best is not None
        return Fitted(as_module(best.weights_DC, best.intercept_C), best.strength)
