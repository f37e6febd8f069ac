"""A nearest-mean classifier, as a linear layer."""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.features.heads.head import Fitted, Head, Labelled

if TYPE_CHECKING:
    from torch import nn

NEVER = -1e9  # the score of a class without training samples


class NearestMean(Head):
    """Scores are x·m - |m|²/2 for the mean m of each class."""

    name: Literal["nearest_mean"] = "nearest_mean"

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns a linear layer on flattened features."""
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, math.prod(shape), classes))

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Computes the means; makes no choices and uses no randomness."""
        import torch

        from harness.features.heads.least_squares import refuse_infinite

        refuse_infinite(train.x)
        module = self.module(train.x.shape[1:], classes).requires_grad_(False)
        for number in range(classes):
            of_class = train.x_ND[train.labels_N == number]
            mean_D = of_class.mean(0) if len(of_class) else np.zeros(train.x_ND.shape[1], np.float32)
            module[1].weight[number] = torch.from_numpy(mean_D)
            module[1].bias[number] = float(-np.square(mean_D).sum() / 2) if len(of_class) else NEVER
        return Fitted(module.to(device), None)
