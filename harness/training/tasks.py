"""What is learnt: a `Task` knows its examples, its model and its loss; `harness.training.loop` does the rest."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from harness.core.seeds import derive_seed
from harness.data.transforms import as_input
from harness.models.noise_processes.process import NoiseProcess
from harness.training import noise
from harness.training.augment import augmented
from harness.training.config import Augment
from harness.training.regularisers import PLAIN, Regulariser


class Draws:
    """The randomness of one training step, for this worker's share of the batch.

    A draw depends on the seed, its name, the step and the sample's position in the whole batch, so that every
    number of workers sees the same.
    """

    def __init__(self, seed: int, step: int, positions_N: torch.Tensor) -> None:
        self.device = positions_N.device
        self._seed = seed
        steps_N = torch.full_like(positions_N, step)
        self._address_N3 = torch.stack([positions_N, steps_N, torch.zeros_like(steps_N)], 1)

    def normal(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Returns standard normal noise in the shape of `like` [N, ...]."""
        return noise.normal(derive_seed(self._seed, name), self._address_N3, tuple(like.shape[1:]))

    def integers(self, name: str, high: int) -> torch.Tensor:
        """Returns int64 [N] in 0..high - 1, one a sample."""
        return noise.integers(derive_seed(self._seed, name), self._address_N3, high)

    def augmented(self, name: str, x_NCHW: torch.Tensor, how: Augment) -> torch.Tensor:
        """Returns a view of each image, cropped and flipped as `how` says."""
        return augmented(x_NCHW, derive_seed(self._seed, name), self._address_N3, how)


class Task(Protocol):
    """The contract of everything that `fit` trains. One whose examples are no images says so in `noun`."""

    examples: int  # how many training examples there are

    def model(self) -> nn.Module:
        """Returns the network before training. Called once, with torch's random state seeded."""
        ...

    def loss(self, model: nn.Module, index_N: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Returns the loss of each example of this worker's share [N]. Called every step."""
        ...

    def snapshot(self, model: nn.Module, step: int) -> torch.Tensor | None:
        """Returns a tensor to keep after `step` steps, or None. Called after every step."""
        ...


class Denoising:
    """Predicts of a noised example what its noise process wants; the noise, as in Ho et al. 2020, equation 14.

    For images (uint8 [M, C, H, W]) and for latents (float [M, L]) alike.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: torch.Tensor,
        process: NoiseProcess,
        regulariser: Regulariser = PLAIN,
        noun: str = "images",
    ) -> None:
        self.model = build
        self.noun = noun
        self.examples = len(examples)
        self._x = examples
        self._process = process
        self._regulariser = regulariser

    def loss(self, model: nn.Module, index_N: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Returns the mean squared error of the prediction [N], with what the regulariser adds."""
        x = as_input(self._x[index_N].to(draws.device))
        steps_N = draws.integers("timestep", self._process.timesteps)
        epsilon = draws.normal("noise", x)
        noised = self._process.noised(x, epsilon, steps_N)
        network = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        given = self._regulariser.input(network, noised, steps_N, self._process, draws)
        with self._regulariser.listening(network) as heard:
            output = model(given, self._process.time(steps_N))
        predicted = output if isinstance(output, torch.Tensor) else output.sample
        target = self._process.target(x, epsilon, steps_N)
        losses_N = (predicted[:, : x.shape[1]] - target).square().flatten(1).mean(1)
        return self._regulariser.penalised(losses_N, heard)

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Keeps nothing."""


class Classification:
    """Learns labels (int64 [M]) of images (uint8 [M, C, H, W]) or vectors (float [M, D]) by cross-entropy."""

    def __init__(
        self,
        build: Callable[[], nn.Module],
        examples: torch.Tensor,
        labels: torch.Tensor,
        keep: Callable[[nn.Module, int], torch.Tensor | None] = lambda model, step: None,
        augment: Augment | None = None,
    ) -> None:
        self.model = build
        self.snapshot = keep
        self.examples = len(examples)
        self._x, self._labels = examples, labels
        self._augment = augment

    def loss(self, model: nn.Module, index_N: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Returns the cross-entropy [N]."""
        x = as_input(self._x[index_N].to(draws.device))
        if self._augment is not None:
            x = draws.augmented("augment", x, self._augment)
        logits = model(x)
        labels = self._labels[index_N].to(draws.device)
        return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


class Autoencoding:
    """Reconstructs vectors [M, P] with noise on what goes in and on the latents (p-diff, section 3.2).

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

    def loss(self, model: nn.Module, index_N: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Returns the mean squared error against the clean vector [N]."""
        x_NP = self._vectors[index_N].to(draws.device)
        kept, latent_kept = (
            1 - strength if self._mixed else 1.0 for strength in (self._parameter_noise, self._latent_noise)
        )
        noised_NP = kept * x_NP + self._parameter_noise * draws.normal("parameters", x_NP)
        latent_noise_NL = self._latent_noise * draws.normal(
            "latents", x_NP.new_empty(len(x_NP), self._latent)
        )
        return (model(noised_NP, latent_noise_NL, latent_kept) - x_NP).square().mean(1)

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Keeps nothing."""
