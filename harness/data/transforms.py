"""Converts stored images to network inputs."""

from typing import Any

import numpy as np
import torch

from harness.data.shards import ImageArray


def as_input(examples: torch.Tensor) -> torch.Tensor:
    """Maps grey levels (uint8, 0..255) to float32 in [-1, 1], as diffusion models expect; floats are unchanged."""
    return examples.to(torch.float32) / 127.5 - 1.0 if examples.dtype == torch.uint8 else examples


class Chosen:
    """Some images of a data set, in the order of `index_M`: read when they are indexed, as uint8 [N, C, H, W]."""

    def __init__(self, images: ImageArray, index_M: np.ndarray) -> None:
        self._images, self._index_M = images, index_M

    def __len__(self) -> int:
        return len(self._index_M)

    def __getitem__(self, places: Any) -> torch.Tensor:
        return torch.from_numpy(self._images[self._index_M[places]])
