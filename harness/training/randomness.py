"""The random numbers of a training step: the same for any number of workers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.core.seeds import derive_seed
from harness.training import noise
from harness.training.augment import augmented
from harness.training.config import Augment


class StepRandomness:
    """The random numbers of one training step, for this worker's share of the batch.

    They depend on the seed, a name, the step and the sample's position in the global batch, hence not on the number
    of workers.
    """

    def __init__(self, seed: int, step: int, positions_N: torch.Tensor) -> None:
        self.device = positions_N.device
        self._seed = seed
        self._step = step
        steps_N = torch.full_like(positions_N, step)
        self._address_N3 = torch.stack([positions_N, steps_N, torch.zeros_like(steps_N)], 1)

    def normal(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Returns standard normal noise in the shape of `like` [N, ...]."""
        return noise.normal(derive_seed(self._seed, name), self._address_N3, tuple(like.shape[1:]))

    def integers(self, name: str, high: int) -> torch.Tensor:
        """Returns int64 [N] in 0..high - 1, one per sample."""
        return noise.integers(derive_seed(self._seed, name), self._address_N3, high)

    def augmented(self, name: str, x_NCHW: torch.Tensor, how: Augment) -> torch.Tensor:
        """Returns a view of each image, cropped and flipped as `how` says."""
        return augmented(x_NCHW, derive_seed(self._seed, name), self._address_N3, how)

    @contextmanager
    def seeded(self, name: str) -> Iterator[None]:
        """Context manager that seeds torch's own random numbers, which layers such as dropout draw.

        They alone depend on the number of workers, each of which draws its own.
        """
        first = int(self._address_N3[0, 0]) if len(self._address_N3) else 0
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, name, self._step, first) % 2**63)
            yield
