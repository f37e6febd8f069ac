"""The contract of a head: a classifier that is trained on frozen features."""

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import field_validator

from harness.core.checks import refuse_duplicates
from harness.core.config import Config, part_of, unkeyed
from harness.core.errors import UserError
from harness.core.registry import Registry
from harness.features.lazy import BYTES_A_NUMBER, Features, batches

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

    x: Features  # float32 [N, C, P, P] or [N, D], standardised by the training features
    labels_N: np.ndarray  # class numbers, int64; of multi-label data 0 and 1, int8 [N, classes]

    @property
    def dimensions(self) -> int:
        """The number of features of a sample."""
        return math.prod(self.x.shape[1:])

    @property
    def x_ND(self) -> np.ndarray:
        """All features at once, flattened."""
        x: np.ndarray = self.x[:]
        return x.reshape(len(x), -1)

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields all samples in order: features [B, D], flattened, and labels."""
        for place, x_B in batches(self.x):
            yield x_B.reshape(len(x_B), -1), self.labels_N[place]


class Fitted(NamedTuple):
    """A trained head."""

    module: "nn.Module"  # features [N, C, P, P] to scores [N, classes]; the largest score is the prediction
    regularisation: float | None  # the strength chosen on validation, if any

    def scores(self, x: Features, batch: int = 1024) -> np.ndarray:
        """Returns scores [N, classes] of features in the shape of those that the head was trained on.

        At most `batch` samples are read, and passed through the module, at a time.
        """
        import torch

        place = next((one for one in [*self.module.parameters(), *self.module.buffers()]), torch.empty(0))
        kind = place.dtype if place.is_floating_point() else torch.float32
        with torch.inference_mode():
            parts = [
                self.module(torch.from_numpy(x_B).to(place.device, kind)).cpu()
                for _, x_B in batches(x, batch)
            ]
        return torch.cat(parts).numpy()

    def predict(self, x: Features) -> np.ndarray:
        """Returns class numbers [N], of samples that have one label."""
        return self.scores(x).argmax(1)


class Head(Config):
    """Base of all heads. A subclass has a field `name` equal to its registered name.

    Registered under `name`; rows show `display_name`, so an experiment may use a head with several sets of options.
    """

    name: str
    label: str | None = unkeyed(None)  # what rows show instead of `name`
    version: ClassVar[int | None] = 1  # raise it if the same values now give other predictions
    trained_by_steps: ClassVar[bool] = (
        False  # `module` is trained by gradient descent: it can learn from a stream or be fine-tuned
    )
    in_batches: ClassVar[bool] = False  # `fit` copes with features that are read: see there
    multilabel: ClassVar[bool] = False  # `fit` copes with images that have several labels: see there

    @field_validator("label")
    @classmethod
    def _can_be_an_axis(cls, label: str | None) -> str | None:
        if label is None:
            return None
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", label):
            raise ValueError("a label has 1 to 40 characters: letters, digits, '.', '_' and '-'")
        if label in HEADS.names() and label != cls.model_fields["name"].default:
            raise ValueError("is the name of another head; choose another label")
        return label

    @property
    def display_name(self) -> str:
        """The value of the column `head`."""
        return self.label or self.name

    def on_parts(self, channels: list[int]) -> Self:
        """Returns the head for concatenated feature maps with these numbers of channels.

        Called for `features.combined`; most heads can ignore it.
        """
        return self

    @property
    def seconds(self) -> float:
        """Estimated duration of `fit` on one CPU core; plans use it until there are measurements."""
        return 0.5

    def working_bytes(self, samples: int, dimensions: int, classes: int) -> float:
        """Returns about how much memory `fit` takes beside the features, for so many training samples.

        Plans use it to refuse what `features.memory_gb` cannot hold. By default, a copy of the training features.
        """
        return BYTES_A_NUMBER * samples * dimensions

    @abstractmethod
    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the head before training: features [N, *shape] to scores [N, classes]; shape is (C, P, P) or (D,).

        The module that `fit` returns has the same structure, so its weights can be saved and loaded. Raises
        `UserError` for a shape that the head cannot read.
        """

    @abstractmethod
    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains on `train`; all choices are made on `validation`. Called once per trial.

        Features are float32 [N, D] or [N, C, P, P], with N >= 2, and more or fewer features than samples; labels are
        class numbers below `classes`. A head must cope with a class that is absent from `train` or `validation`, and
        with training samples of a single class: an absent class keeps its column of scores, and the other classes
        are learnt as usual.

        `train.x` and `validation.x` are arrays. If the head sets `in_batches`, they may be `LazyFeatures` instead,
        which are read when they are indexed: the head goes over them in `batches`, or takes some by their numbers,
        and keeps none, as there may be more than memory takes.

        If the head sets `multilabel`, labels may also be 0 and 1, int8 [N, classes]: whether a sample is of each
        class. A class's scores then rank the samples, choices are made by mean average precision, and a class may
        have no sample, or all.

        All randomness comes from `seed`: the same arguments give the same weights on the same device, whatever the
        global random state of torch, NumPy and Python, which must not change. Neither may the samples. The result
        predicts each sample independently.

        Raises `FloatingPointError` containing "not finite" if a training feature is NaN or infinite
        (`least_squares.refuse_infinite`), or if the loss becomes so (the common loop does this).
        """


def head_of(values: Mapping[str, Any]) -> Head:
    """Returns the head for the `values` that its `keyed` returned."""
    head: Head = part_of(HEADS, values)
    return head


def learns_by_gradients(head: Head) -> bool:
    """Returns whether a head can be trained by gradient descent: linear too, although `fit` solves it."""
    return head.trained_by_steps or head.name == "linear"


def refuse_single_label(heads: Sequence[Head], data: str, where: str) -> None:
    """Raises `UserError` for heads that cannot learn the multi-label data set called `data`."""
    wrong = [head.display_name for head in heads if not head.multilabel]
    if wrong:
        raise UserError(
            f"{where}: head {', '.join(wrong)} takes one label an image, but data set {data} is multi-label; use "
            "linear, ridge or a head trained by gradient descent, such as mlp"
        )


def refuse_same_names(heads: Sequence[Head], where: str) -> None:
    """Raises `UserError` for two heads with the same name in rows."""
    advice = "; give each a label of its own, such as {name: linear, label: linear-2, ...}"
    refuse_duplicates([head.display_name for head in heads], where, advice)
