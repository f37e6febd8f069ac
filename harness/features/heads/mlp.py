"""A multilayer perceptron on frozen features."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.features.heads.by_gradients import ByGradients

if TYPE_CHECKING:
    from torch import nn


class MLP(ByGradients):
    """Linear and ReLU layers on flattened features, trained by the common loop."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([256], min_length=1, max_length=64)

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the untrained layers on flattened features."""
        from torch import nn

        from harness.models.classifiers.mlp import build_mlp

        return nn.Sequential(nn.Flatten(), build_mlp([math.prod(shape), *self.hidden, classes]))
