"""The contract of a head: a classifier that is trained on frozen features."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import field_validator

from harness.core.config import Config, part_of, unkeyed
from harness.core.errors import UserError
from harness.core.registry import Registry

if TYPE_CHECKING:
    from torch import nn

HEADS = Registry(
    "head",
    {
        "linear": "harness.features.heads.linear:Linear",
        "ridge": "harness.features.heads.ridge:Ridge",
        "mlp": "harness.features.heads.mlp:MLP",
        "cnn": "harness.features.heads.cnn:CNN",
        "attention": "harness.features.heads.attention:Attention",
        "difformer": "harness.features.heads.difformer:DifFormer",
        "knn": "harness.features.heads.knn:KNN",
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
    """Base of all heads. A subclass has a field `name` equal to its registered name.

    A head is found by `name`; rows show `axis`, so that a study may have one head with several sets of options.
    """

    name: str
    label: str | None = unkeyed(None)  # what rows show instead of `name`
    version: ClassVar[int | None] = 1  # raise it when the same values would give other predictions
    trained_by_steps: ClassVar[bool] = (
        False  # by gradients from `network`: it can learn from a stream, or fine-tune
    )

    @field_validator("label")
    @classmethod
    def _can_be_an_axis(cls, label: str | None) -> str | None:
        if label is None:
            return None
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", label):
            raise ValueError("a label has 1 to 40 letters, digits, '.', '_' and '-'")
        if label in HEADS.names() and label != cls.model_fields["name"].default:
            raise ValueError("the name of another head; choose another label")
        return label

    @property
    def display_name(self) -> str:
        """The value of the column `head`."""
        return self.label or self.name

    def on_parts(self, channels: list[int]) -> Self:
        """Returns the head for features of several feature maps, with so many channels each, one after the other.

        Called for `features.combined`; most heads need not know.
        """
        return self

    @property
    def seconds(self) -> float:
        """A guess at how long `fit` takes on one CPU core, for plans, until it has been measured."""
        return 0.5

    @abstractmethod
    def network(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the head before training: features [N, *shape] to scores [N, classes]; shape is (C, P, P) or (D,).

        What `fit` returns has the same structure, so that its weights can be kept and loaded again. Raises
        `UserError` for a shape that the head cannot stand on.
        """

    @abstractmethod
    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains on `train`; whatever is chosen is chosen on `validation`. Called once a trial.

        Features are float32 [N, D] or [N, C, P, P], with any N from 2 on, more numbers than samples or fewer; labels
        are class numbers below `classes`. A head must bear a class that `train` or `validation` lacks, and training
        samples of one class alone: such a class keeps its column of scores, and the others are learnt as well.

        All randomness comes from `seed`: the same arguments give the same weights on the same device, whatever the
        global random state of torch, NumPy and Python, which stays as it is. The samples stay as they are too. What
        is returned predicts each sample by itself.

        Raises `FloatingPointError` with the words "not finite" if a training feature is NaN or infinite
        (`least_squares.refuse_infinite`), or if the loss becomes so (the common loop does).
        """


def head_of(values: Mapping[str, Any]) -> Head:
    """Returns the head that `keyed` wrote as `values`."""
    head: Head = part_of(HEADS, values)
    return head


def refuse_twins(heads: Sequence[Head], where: str) -> None:
    """Raises `UserError` for two heads that rows could not tell apart."""
    twice = Counter(head.display_name for head in heads)
    for head in heads:
        if twice[head.display_name] > 1:
            raise UserError(
                f"{where}: {head.display_name!r} is given twice; give each a label of its own, such as "
                f"{{name: {head.name}, label: {head.name}-2, ...}}"
            )
