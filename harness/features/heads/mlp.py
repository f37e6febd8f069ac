"""A multilayer perceptron on frozen features."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled
from harness.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn


class MLP(Head):
    """Linear-ReLU chain, trained by the common loop."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([256], min_length=1, max_length=64)
    train: TrainConfig = TrainConfig(
        steps=200, batch=128, learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", workers=0
    )

    trained_by_steps: ClassVar[bool] = True

    def network(self, shape: tuple[int, int, int], classes: int) -> "nn.Module":
        """Returns the chain on flattened features."""
        from torch import nn

        from harness.models.mlp import build_mlp

        return nn.Sequential(nn.Flatten(), build_mlp([math.prod(shape), *self.hidden, classes]))

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains for a fixed number of steps; `validation` is not looked at."""
        import torch

        from harness.training.loop import Crew, fit
        from harness.training.tasks import Classification

        x, labels_N = torch.from_numpy(train.x), torch.from_numpy(train.labels_N)
        task = Classification(lambda: self.network(train.x.shape[1:], classes), x, labels_N)
        model = fit(task, self.train, seed, Crew(torch.device(device))).model
        return Fitted(model.eval().requires_grad_(False), None)
