"""Networks as flat vectors, their normalisation, and the choice of checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import torch

from harness.weights.layout import Layout


def flatten(state: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """Returns the varied parameters as one float32 vector [P]."""
    return torch.cat([state[name].detach().reshape(-1).float().cpu() for name in layout.names])


def unflatten(vectors_NP: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Returns the parameters [N, *shape] of N networks by name; a variance below 0 becomes 0."""
    pieces = vectors_NP.split(layout.sizes, 1)
    return {
        name: (piece.clamp_min(0) if name.endswith("running_var") else piece).reshape(-1, *shape)
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
    """Measures mean and deviation, one of each per tensor (p-diff, 2024-12 edition)."""
    pieces = np.split(originals_KP.astype(np.float64), np.cumsum(layout.sizes)[:-1], axis=1)
    means = [piece.mean() for piece in pieces]
    deviations = [piece.std() or 1.0 for piece in pieces]
    return Normaliser(np.repeat(means, layout.sizes), np.repeat(deviations, layout.sizes))


def choose(size: int, k: int, subset: str, draw: np.random.Generator) -> np.ndarray:
    """Returns which `k` of `size` checkpoints to take: the first, evenly spread (the last among them) or at random.

    A smaller k gives a subset of a larger one, if `draw` is in the same state.
    """
    if subset == "first":
        return np.arange(k)
    order = spread(size) if subset == "strided" else draw.permutation(size)
    return np.sort(order[:k])


def spread(size: int) -> np.ndarray:
    """Returns 0..size - 1 in an order of which every prefix is evenly spread.

    The ends come first, then always the middle of the widest gap, so that the gaps of a prefix
    differ by at most a factor of two, up to rounding.
    """
    order, gaps = [size - 1, 0][:size], [(1 - size, 0, size - 1)]  # a heap: widest gap first, then leftmost
    while len(order) < size:
        _, low, high = heappop(gaps)
        middle = (low + high) // 2
        order.append(middle)
        for begin, end in ((low, middle), (middle, high)):
            if end - begin > 1:
                heappush(gaps, (begin - end, begin, end))
    return np.array(order)


def withheld(total: int, count: int) -> np.ndarray:
    """Returns which of `total` checkpoints, in order, are withheld from everything that learns: evenly spread."""
    places = ((np.arange(count) + 0.5) * total / max(count, 1)).astype(int)
    held_out_N = np.zeros(total, bool)
    held_out_N[places] = True
    return held_out_N
