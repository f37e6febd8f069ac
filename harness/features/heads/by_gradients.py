"""Heads that the common training loop trains by gradient descent."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.data.label_arrays import is_multilabel
from harness.features.heads.head import Fitted, Head, Labelled
from harness.features.lazy import BYTES_A_NUMBER
from harness.training.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np

MULTIPLICATIONS_PER_SECOND = 2e10  # of one CPU core

Decay = Annotated[float, Field(ge=0)]


class ByGradients(Head):
    """Base of these heads. With several weight decays, a head is trained for each and the best on validation kept."""

    train: TrainConfig = TrainConfig(
        steps=200, batch=128, learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", workers=0
    )
    weight_decays: list[Decay] = []  # instead of train.weight_decay; chosen on validation

    trained_by_steps: ClassVar[bool] = True
    in_batches: ClassVar[bool] = True  # a step takes its samples by their numbers
    multilabel: ClassVar[bool] = True

    @property
    def seconds(self) -> float:
        """An estimate from the multiply-accumulates of the forward and backward passes."""
        passes = 3 * self.train.steps * self.train.batch * max(1, len(self.weight_decays))
        return 1e-3 * self.train.steps + passes * self.multiplications / MULTIPLICATIONS_PER_SECOND

    @property
    def multiplications(self) -> float:
        """An estimate of the multiply-accumulates per image, without knowing its features."""
        return 1e5

    def working_bytes(self, samples: int, dimensions: int, classes: int) -> float:
        """Returns the bytes of one step's features; those of the module and its activations are not known."""
        return BYTES_A_NUMBER * self.train.batch * dimensions

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains for a fixed number of steps; uses `validation` only if there is a weight decay to choose.

        Chooses by accuracy, or mAP for multi-label data; ties are broken by cross-entropy.
        """
        if not self.weight_decays:
            return self._fit(self.train, train, classes, seed, device, None)
        tried = [
            self._fit(
                self.train.model_copy(update={"weight_decay": decay}), train, classes, seed, device, decay
            )
            for decay in self.weight_decays
        ]
        return max(tried, key=lambda one: _mark(one.scores(validation.x), validation.labels_N))

    def _fit(
        self,
        config: TrainConfig,
        train: Labelled,
        classes: int,
        seed: int,
        device: str,
        regularisation: float | None,
    ) -> Fitted:
        import torch

        from harness.training.loop import ProcessGroup, fit
        from harness.training.tasks import Classification

        labels_N = torch.from_numpy(train.labels_N)
        task = Classification(lambda: self.module(train.x.shape[1:], classes), train.x, labels_N)
        model = fit(task, config, seed, ProcessGroup(torch.device(device))).model
        return Fitted(model.eval().requires_grad_(False), regularisation)


def _mark(scores_NC: "np.ndarray", labels_N: "np.ndarray") -> tuple[float, float]:
    """Returns accuracy and negative cross-entropy; of multi-label data mAP in place of accuracy."""
    from scipy.special import log_softmax

    from harness.features.heads.choosing import log_likelihood, ranked

    if is_multilabel(labels_N):
        return ranked(scores_NC, labels_N), log_likelihood(scores_NC, labels_N)
    right = float((scores_NC.argmax(1) == labels_N).mean())
    truth_N = log_softmax(scores_NC.astype("float64"), axis=1)[range(len(labels_N)), labels_N]
    return right, float(truth_N.mean())
