"""Networks as flat vectors, their normalisation, and which of a pool to take."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from harness.weights.layout import Layout


def flatten(state: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """Returns the varied parameters as one float32 vector [P]."""
    return torch.cat([state[name].detach().reshape(-1).float().cpu() for name in layout.names])


def unflatten(vectors_NP: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Returns the parameters [N, *shape] of N networks by name."""
    pieces = vectors_NP.split(layout.sizes, 1)
    return {
        name: piece.reshape(-1, *shape)
        for name, shape, piece in zip(layout.names, layout.shapes, pieces, strict=True)
    }


@dataclass(frozen=True)
class Normaliser:
    """Takes each parameter tensor to mean 0 and deviation 1 over all its entries of all originals."""

    mean_P: np.ndarray
    deviation_P: np.ndarray

    def normalise(self, vectors_NP: np.ndarray) -> np.ndarray:
        """Returns normalised vectors, float32."""
        return ((vectors_NP - self.mean_P) / self.deviation_P).astype(np.float32)

    def restore(self, vectors_NP: np.ndarray) -> np.ndarray:
        """Returns parameters, float32."""
        return (vectors_NP * self.deviation_P + self.mean_P).astype(np.float32)


def normaliser(originals_KP: np.ndarray, layout: Layout) -> Normaliser:
    """Measures mean and deviation, one of each a tensor (p-diff, 2024-12 edition)."""
    pieces = np.split(originals_KP.astype(np.float64), np.cumsum(layout.sizes)[:-1], axis=1)
    means = [piece.mean() for piece in pieces]
    deviations = [piece.std() or 1.0 for piece in pieces]
    return Normaliser(np.repeat(means, layout.sizes), np.repeat(deviations, layout.sizes))


def choose(size: int, k: int, subset: str, draw: np.random.Generator) -> np.ndarray:
    """Returns which `k` of `size` checkpoints to take: the first, evenly strided to the last, or at random."""
    if subset == "first":
        return np.arange(k)
    if subset == "strided":
        return np.round(np.linspace(0, size - 1, k)).astype(int) if k > 1 else np.array([size - 1])
    return np.sort(draw.choice(size, k, replace=False))
