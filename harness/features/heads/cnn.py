"""A small convolutional network on frozen feature maps."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.features.heads.by_gradients import ByGradients
from harness.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn


class CNN(ByGradients):
    """3x3 convolutions with ReLU on the feature map, an average over the map, a linear layer.

    The code of the published head of this name was not released; this is our own.
    """

    name: Literal["cnn"] = "cnn"
    train: TrainConfig = TrainConfig(
        steps=400, batch=128, learning_rate=3e-3, weight_decay=1e-2, schedule="cosine", workers=0
    )
    widths: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([64, 64], min_length=1, max_length=16)

    @property
    def multiplications(self) -> float:
        """An estimate, for a 4x4 map."""
        return 16 * 9 * sum(width**2 for width in self.widths)

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the untrained module; a feature vector counts as a map of one pixel."""
        from harness.features.heads.map_modules import build_cnn

        return build_cnn(shape[0], self.widths, classes)
