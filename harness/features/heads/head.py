"""The contract of a head: a classifier that is trained on frozen features."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np

from harness.core.config import Config
from harness.core.registry import Registry

HEADS = Registry(
    "head",
    {
        "linear": "harness.features.heads.linear:Linear",
        "mlp": "harness.features.heads.mlp:MLP",
    },
)


class Labelled(NamedTuple):
    """Features with their labels."""

    x_ND: np.ndarray  # float32, standardised by the training features
    labels_N: np.ndarray  # int64


class Fitted(NamedTuple):
    """A trained head."""

    predict: Callable[[np.ndarray], np.ndarray]  # features [N, D] to class numbers [N]
    regularisation: float | None  # the strength that was chosen on validation, if any


class Head(Config):
    """Base of all heads. A subclass has a field `name` equal to its registered name."""

    name: str
    version: ClassVar[int] = 1  # raised when the same values would give other predictions

    @abstractmethod
    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains on `train`; whatever is chosen is chosen on `validation`. Called once a trial."""
