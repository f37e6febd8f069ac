"""The linear probe: multinomial logistic regression solved to convergence."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled

if TYPE_CHECKING:
    from torch import nn

Strength = Annotated[float, Field(gt=0)]


class Linear(Head):
    """Mean cross-entropy + strength / 2 * |W|^2, with a free intercept; scikit-learn's C is 1 / (strength * N)."""

    name: Literal["linear"] = "linear"
    strengths: list[Strength] = Field([1e-3, 1e-2, 1e-1, 1.0], min_length=1)

    @property
    def seconds(self) -> float:
        """An estimate for a thousand features of a few hundred images."""
        return 0.15

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns a linear layer on flattened features, in float64."""
        return linear_module(shape, classes)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses the strength by accuracy on `validation`; ties are broken by cross-entropy."""
        from harness.features.heads.logistic import choose_strength

        return choose_strength(train, validation, classes, self.strengths, device)


def linear_module(shape: tuple[int, ...], classes: int) -> "nn.Module":
    """Returns a linear layer on flattened features, in float64, for closed-form and convex solutions."""
    from torch import float64, nn

    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes, dtype=float64))
