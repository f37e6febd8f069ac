"""Stored features, read from their shards' files as they are indexed.

Files are read at given positions and not mapped, as mapped pages would count as memory of the process.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from harness.core.recent import Recent
from harness.core.stages import Context, Stage
from harness.features.extract import FILE
from harness.features.lazy import Features, LazyFeatures, batches
from harness.models.finite import refuse_infinite_batches

CHECKED = 10_000  # taps that a process remembers to have checked


def stored_features(shards: Sequence[Stage], context: Context) -> LazyFeatures:
    """Returns the features [M, C, P, P] of a tap's images in the order of its shards.

    All are read once to check them, for all pools and heads of this process. Raises `FloatingPointError` if some are
    not finite.
    """
    tap = _Tap(shards, context)
    features = LazyFeatures(tap.shape, tap.read)

    def check() -> bool:
        refuse_infinite_batches((x_BCPP for _, x_BCPP in batches(features)), "images' features")
        return True

    _checked.get((context.store.storage.url, *(shard.key for shard in shards)), check)
    return features


_checked = Recent[bool](CHECKED)


def pooled(taps: Sequence[Features], pool: int) -> LazyFeatures:
    """Returns feature maps of the same images, averaged to pool x pool and concatenated along the channels."""

    def read(rows_B: np.ndarray) -> np.ndarray:
        maps = [_averaged(tap[rows_B], pool) for tap in taps]
        return np.concatenate(maps, 1) if len(maps) > 1 else maps[0]

    channels = sum(tap.shape[1] for tap in taps)
    return LazyFeatures((len(taps[0]), channels, pool, pool), read)


def _averaged(x_BCPP: np.ndarray, pool: int) -> np.ndarray:
    if x_BCPP.shape[2] == pool:
        return x_BCPP
    return adaptive_avg_pool2d(torch.from_numpy(x_BCPP), pool).numpy()


class _Array(NamedTuple):
    """Where an array lies in a file."""

    shape: tuple[int, ...]
    begin: int  # its first byte


class _Tap:
    """Reads rows of the features of a tap."""

    def __init__(self, shards: Sequence[Stage], context: Context) -> None:
        self._shards, self._context = shards, context
        self._paths = [context.file(shard, FILE) for shard in shards]
        self._arrays = [_array(path, "features") for path in self._paths]
        self._ends = np.cumsum([array.shape[0] for array in self._arrays])
        self.shape = (int(self._ends[-1]), *self._arrays[0].shape[1:])

    def read(self, rows_B: np.ndarray) -> np.ndarray:
        """Returns the features of these images, float32 [B, C, P, P]: one read for each run of consecutive rows."""
        x_BCPP = np.empty((len(rows_B), *self.shape[1:]), np.float32)
        if not x_BCPP.size:
            return x_BCPP
        of_B = np.searchsorted(self._ends, rows_B, side="right")
        cuts = 1 + np.flatnonzero((np.diff(rows_B) != 1) | (np.diff(of_B) != 0))
        begins, ends = [0, *cuts.tolist()], [*cuts.tolist(), len(rows_B)]
        for shard in np.unique(of_B).tolist():
            array = self._arrays[shard]
            first = int(self._ends[shard]) - array.shape[0]
            with self._opened(shard) as file:
                for begin, end in zip(begins, ends, strict=True):
                    if of_B[begin] == shard:
                        at = array.begin + (int(rows_B[begin]) - first) * x_BCPP[0].nbytes
                        _read_into(file, x_BCPP[begin:end], at)
        return x_BCPP

    @contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """Yields a shard's file; a machine's cache may have dropped it since, and then it is fetched again."""
        try:
            file = os.open(self._paths[shard], os.O_RDONLY)
        except FileNotFoundError:
            self._paths[shard] = self._context.file(self._shards[shard], FILE)
            file = os.open(self._paths[shard], os.O_RDONLY)
        try:
            yield file
        finally:
            os.close(file)


def _array(path: Path, name: str) -> _Array:
    """Returns where a float32 array lies in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    if about["dtype"] != "F32":
        raise ValueError(f"{path}: {name} are {about['dtype']}, not float32")
    return _Array(tuple(about["shape"]), 8 + length + about["data_offsets"][0])


def _read_into(file: int, x: np.ndarray, position: int) -> None:
    """Fills a contiguous array from a position of a file. Raises `EOFError` if the file ends before."""
    left = memoryview(x.data).cast("B")
    while left:
        count = os.preadv(file, [left], position)
        if not count:
            raise EOFError("a file of features is shorter than its header says")
        left, position = left[count:], position + count
