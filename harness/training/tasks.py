"""Training tasks: a `Task` provides examples, a model and a loss; `harness.training.loop` does the rest."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from harness.data.transforms import as_input
from harness.models.noise_processes.process import NoiseProcess
from harness.training.config import Augment
from harness.training.randomness import StepRandomness
from harness.training.regularisers import PLAIN, Batch, Regulariser


class Task(Protocol):
    """The contract of everything that `fit` trains. A task whose examples are not images names them in `noun`."""

    examples: int  # number of training examples

    def model(self) -> nn.Module:
        """Returns the untrained model. Called once, with torch's random state seeded."""
        ...

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the loss of each example of this worker's share [N]. Called every step."""
        ...

    def snapshot(self, model: nn.Module, step: int) -> torch.Tensor | None:
        """Returns a tensor to store after `step` steps, or None. Called after every step."""
        ...


class Indexed(Protocol):
    """Examples that an array of numbers selects, as an array or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


def _taken(examples: "torch.Tensor | Indexed", index_N: torch.Tensor) -> torch.Tensor:
    """Returns some examples; those that are no tensor are indexed with an array, and read from files perhaps."""
    return torch.as_tensor(examples[index_N if isinstance(examples, torch.Tensor) else index_N.numpy()])


class Denoising:
    """Predicts the target of a noise process from noised examples; the noise, as in Ho et al. 2020, equation 14.

    Examples are images (uint8 [M, C, H, W]) or latents (float [M, L]). Only a regulariser that `learns_labels` needs
    their labels (int64 [M], `UNLABELLED` without one).
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: torch.Tensor | Indexed,
        process: NoiseProcess,
        regulariser: Regulariser = PLAIN,
        noun: str = "images",
        labels_M: torch.Tensor | None = None,
    ) -> None:
        self.model = build
        self.noun = noun
        self.examples = len(examples)
        self._x = examples
        self._process = process
        self._regulariser = regulariser
        self._labels_M = labels_M

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the mean squared error of the prediction [N], plus the regulariser's penalty."""
        x = as_input(_taken(self._x, index_N).to(randomness.device))
        steps_N = randomness.integers("timestep", self._process.timesteps)
        epsilon = randomness.normal("noise", x)
        noised = self._process.noised(x, epsilon, steps_N)
        network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        given = self._regulariser.input(network, noised, steps_N, self._process, randomness)
        with self._regulariser.listening(network) as heard:
            output = model(given, self._process.time(steps_N))
        predicted = output if isinstance(output, torch.Tensor) else output.sample
        target = self._process.target(x, epsilon, steps_N)
        losses_N = (predicted[:, : x.shape[1]] - target).square().flatten(1).mean(1)
        labels_N = None if self._labels_M is None else self._labels_M[index_N].to(randomness.device)
        batch = Batch(labels_N, steps_N, self._process.timesteps)
        return self._regulariser.penalised(losses_N, heard, batch)

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Takes no snapshots."""


class Classification:
    """Learns labels, as `label_loss` has them, of images (uint8 [M, C, H, W]) or vectors (float [M, D])."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: torch.Tensor | Indexed,
        labels: torch.Tensor,
        keep: Callable[[nn.Module, int], torch.Tensor | None] = lambda model, step: None,
        augment: Augment | None = None,
    ) -> None:
        self.model = build
        self.snapshot = keep
        self.examples = len(examples)
        self._x, self._labels = examples, labels
        self._augment = augment

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the cross-entropy [N]."""
        x = as_input(_taken(self._x, index_N).to(randomness.device))
        if self._augment is not None:
            x = randomness.augmented("augment", x, self._augment)
        logits = model(x)
        return label_loss(logits, self._labels[index_N].to(randomness.device))


def label_loss(logits_NC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy [N] of class numbers (int64 [N]).

    Of multi-label data, 0 and 1 (int8 [N, C]), the mean over classes of each one's against its absence.
    """
    if labels.ndim == 2:
        losses_NC = nn.functional.binary_cross_entropy_with_logits(
            logits_NC.float(), labels.float(), reduction="none"
        )
        return losses_NC.mean(1)
    return nn.functional.cross_entropy(logits_NC.float(), labels, reduction="none")


class Autoencoding:
    """Reconstructs vectors [M, P] with noise on the input and on the latents (p-diff, section 3.2).

    Noise of strength f is added, x + f ε (2024-12 edition), or `mixed` in, (1 - f) x + f ε (2024-02).
    """

    noun = "networks"

    def __init__(
        self,
        build: Callable[[], nn.Module],
        vectors: torch.Tensor,
        parameter_noise: float,
        latent_noise: float,
        latent: int,
        mixed: bool = False,
    ) -> None:
        self.model = build
        self.examples = len(vectors)
        self._vectors = vectors
        self._parameter_noise, self._latent_noise = parameter_noise, latent_noise
        self._latent = latent
        self._mixed = mixed

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the mean squared error against the clean vector [N]."""
        x_NP = self._vectors[index_N].to(randomness.device)
        kept, latent_kept = (
            1 - strength if self._mixed else 1.0 for strength in (self._parameter_noise, self._latent_noise)
        )
        noised_NP = kept * x_NP + self._parameter_noise * randomness.normal("parameters", x_NP)
        latent_noise_NL = self._latent_noise * randomness.normal(
            "latents", x_NP.new_empty(len(x_NP), self._latent)
        )
        return (model(noised_NP, latent_noise_NL, latent_kept) - x_NP).square().mean(1)

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Takes no snapshots."""
