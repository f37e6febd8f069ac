"""The linear probe: logistic regression solved to convergence, multinomial, or of each class for multi-label data."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled
from harness.features.heads.least_squares import HELD_BYTES, solving_bytes

if TYPE_CHECKING:
    from torch import nn

Strength = Annotated[float, Field(gt=0)]
OPTIMISER = 30  # numbers that L-BFGS keeps for each weight


class Linear(Head):
    """Mean cross-entropy + strength / 2 * |W|^2, with a free intercept; scikit-learn's C is 1 / (strength * N).

    For multi-label data the cross-entropy is that of each class against its absence, summed over classes: as many
    binary logistic regressions of the same strength.
    """

    name: Literal["linear"] = "linear"
    strengths: list[Strength] = Field([1e-3, 1e-2, 1e-1, 1.0], min_length=1)

    in_batches: ClassVar[bool] = True
    multilabel: ClassVar[bool] = True

    @property
    def seconds(self) -> float:
        """An estimate for a thousand features of a few hundred images."""
        return 0.15

    def working_bytes(self, samples: int, dimensions: int, classes: int) -> float:
        """Returns the bytes of the products of the features, of decomposing them, of the optimiser and of weights."""
        along = min(8 * samples * min(samples, dimensions), HELD_BYTES)
        held = (OPTIMISER * min(samples, dimensions) + 4 * dimensions) * classes
        return solving_bytes(samples, dimensions) + along + 8 * held

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns a linear layer on flattened features, in float64."""
        return linear_module(shape, classes)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses the strength by accuracy, or mAP, on `validation`; ties are broken by cross-entropy."""
        from harness.features.heads.logistic import choose_strength

        return choose_strength(train, validation, classes, self.strengths, device)


def linear_module(shape: tuple[int, ...], classes: int) -> "nn.Module":
    """Returns a linear layer on flattened features, in float64, for closed-form and convex solutions."""
    from torch import float64, nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, dtype=float64))
