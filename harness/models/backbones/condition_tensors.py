"""The tensors of a condition: written once, read by every worker, checked against what the network takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from harness.models.backbones.condition import FILE


def like(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Returns zeros (ones, of masks) of the shapes that `Family.condition_shapes` returned."""
    return {
        name: torch.full(tuple(shape), int(dtype(name) is torch.bool), dtype=dtype(name))
        for name, shape in shapes.items()
    }


def dtype(name: str) -> torch.dtype:
    """Returns the type of a condition's tensor."""
    if name.startswith("label"):
        return torch.int64
    return torch.bool if name.startswith("mask") else torch.float32


def read_condition(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the condition that a folder holds, {} if it holds none."""
    return load_file(folder / FILE) if (folder / FILE).is_file() else {}
