"""Features that are too many for memory: they are indexed like an array, and read when they are. No torch.

Whoever goes over all features does so in `batches`, whose size depends on the shape of the features alone: results
are the same to the last bit whether features are in memory or read.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

BYTES_A_NUMBER = 4  # of features, float32
BATCH_NUMBERS = 2**23  # largest size of a batch, in numbers: 32 MB
BATCH_ROWS = 8192  # largest size of a batch, in samples


class Features(Protocol):
    """Features of samples, float32 [N, C, P, P] or [N, D]: an array, or `LazyFeatures`.

    Indexed along the first axis, by a slice or an array of sample numbers, they give an array.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class LazyFeatures:
    """Features that are read when they are indexed, as many as are asked for."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[np.ndarray], np.ndarray]) -> None:
        """`read` returns the features [B, ...] of samples, given as numbers [B]."""
        self.shape = shape
        self._read = read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Reads samples: a range, or numbers between 0 and N - 1 in any order. Raises `IndexError`."""
        rows_B = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        if rows_B.ndim != 1:
            raise IndexError("features are indexed by a slice or by an array of sample numbers")
        if len(rows_B) and not 0 <= rows_B.min() <= rows_B.max() < len(self):
            raise IndexError(f"samples {rows_B.min()} to {rows_B.max()} of {len(self)}")
        return self._read(rows_B)


def batches(x: Features, most: int = BATCH_ROWS) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields all features in order, as (place, features [B, ...]), with at most `most` samples a batch."""
    for place in places(x, most):
        yield place, x[place]


def places(x: Features, most: int = BATCH_ROWS) -> list[slice]:
    """Returns the ranges of samples that `batches` yields."""
    rows = max(1, min(most, BATCH_NUMBERS // max(1, math.prod(x.shape[1:]))))
    return [slice(begin, min(begin + rows, len(x))) for begin in range(0, len(x), rows)]


def changed(x: Features, change: Callable[[np.ndarray], np.ndarray]) -> LazyFeatures:
    """Returns features of the same shape that go through `change` when they are read."""
    return LazyFeatures(x.shape, lambda rows_B: change(x[rows_B]))


def part(x: Features, begin: int, end: int) -> LazyFeatures:
    """Returns samples `begin` to `end` - 1."""
    return LazyFeatures((end - begin, *x.shape[1:]), lambda rows_B: x[rows_B + begin])


def joined(first: Features, second: Features) -> LazyFeatures:
    """Returns the samples of both."""
    count = len(first)

    def read(rows_B: np.ndarray) -> np.ndarray:
        of_first_B = rows_B < count
        if of_first_B.all():
            return np.asarray(first[rows_B])
        x = np.empty((len(rows_B), *first.shape[1:]), np.float32)
        x[of_first_B] = first[rows_B[of_first_B]]
        x[~of_first_B] = second[rows_B[~of_first_B] - count]
        return x

    return LazyFeatures((count + len(second), *first.shape[1:]), read)


def in_memory(x: Features) -> np.ndarray:
    """Reads all features into an array."""
    whole = np.empty(x.shape, np.float32)
    for place, x_B in batches(x):
        whole[place] = x_B
    return whole
