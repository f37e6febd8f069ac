"""The tensors of a condition: written once, read by every worker, checked against what the network takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.core.errors import UserError
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


def read_embeddings(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a file that `harness embed-prompt` wrote.

    Their first dimension, the number of tokens, may differ from that of `shapes` if there are several dimensions.
    Raises `UserError` unless they are those that the network takes.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from None
    for name, shape in shapes.items():
        if name not in found:
            raise UserError(f"{path}: has no tensor {name!r}; this network takes {', '.join(shapes)}")
        got = list(found[name].shape)
        if len(got) != len(shape) or got[1:] != list(shape[1:]) or (len(shape) == 1 and got != list(shape)):
            raise UserError(f"{path}: {name!r} has shape {got}, this network takes {list(shape)}")
    return {name: found[name].to(dtype(name)) for name in shapes}
