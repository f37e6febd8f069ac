"""The contract of a head: a classifier that is trained on frozen features."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from harness.core.config import Config
from harness.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

HEADS = Registry(
    "head",
    {
        "linear": "harness.features.heads.linear:Linear",
        "mlp": "harness.features.heads.mlp:MLP",
    },
)


class Labelled(NamedTuple):
    """Features with their labels."""

    x: np.ndarray  # float32 [N, C, P, P] or [N, D], standardised by the training features
    labels_N: np.ndarray  # int64

    @property
    def x_ND(self) -> np.ndarray:
        """The features, flattened."""
        return self.x.reshape(len(self.x), -1)


class Fitted(NamedTuple):
    """A trained head."""

    network: "nn.Module"  # features [N, C, P, P] to scores [N, classes]; the largest score is the prediction
    regularisation: float | None  # the strength that was chosen on validation, if any

    def scores(self, x: np.ndarray, batch: int = 1024) -> np.ndarray:
        """Returns scores [N, classes] of features in the shape of those that the head was trained on."""
        import torch

        place = next((one for one in [*self.network.parameters(), *self.network.buffers()]), torch.empty(0))
        kind = place.dtype if place.is_floating_point() else torch.float32
        with torch.inference_mode():
            parts = [
                self.network(torch.from_numpy(x[begin : begin + batch]).to(place.device, kind)).cpu()
                for begin in range(0, len(x), batch)
            ]
        return torch.cat(parts).numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Returns class numbers [N]."""
        return self.scores(x).argmax(1)


class Head(Config):
    """Base of all heads. A subclass has a field `name` equal to its registered name."""

    name: str
    version: ClassVar[int] = 1  # raised when the same values would give other predictions
    trained_by_steps: ClassVar[bool] = (
        False  # by gradients from `network`: it can learn from a stream, or fine-tune
    )

    @abstractmethod
    def network(self, shape: tuple[int, int, int], classes: int) -> "nn.Module":
        """Returns the head before training: features [N, *shape], shape = (C, P, P), to scores [N, classes].

        What `fit` returns has the same structure, so that its weights can be kept and loaded again. Raises
        `UserError` for a shape that the head cannot stand on.
        """

    @abstractmethod
    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains on `train`; whatever is chosen is chosen on `validation`. Called once a trial."""
