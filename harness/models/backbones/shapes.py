"""The shapes of a network's tensors, as its configuration says, and how those found differ. Nothing is allocated."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from harness.core.errors import UserError
from harness.core.registry import load_attribute

NULL_LABEL = "class_embedder.embedding_table.weight"  # its last row is the null label


def shapes_of(kind: str, config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's tensors by name.

    Raises `UserError`, beginning with `where`, if none can be built.
    """
    with torch.device("meta"):
        try:
            network = load_attribute(kind).from_config(dict(config))
        except Exception as error:  # diffusers raises many types for contradictory configurations
            raise UserError(f"{where}: no {kind.rpartition(':')[2]} can be built from it: {error}") from None
    return {name: tuple(one.shape) for name, one in network.state_dict().items()}


def parameters(kind: str, config: Mapping[str, Any]) -> int:
    """Returns how many numbers a network's tensors have."""
    return sum(math.prod(shape) for shape in shapes_of(kind, config, "config.json").values())


def mismatches(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], says: str) -> str:
    """Describes how shapes by name differ from those wanted, with one example per type; "" if they do not."""
    texts = []
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    other = [name for name in wanted if name in found and found[name] != wanted[name]]
    if missing:
        texts.append(f"{missing[0]!r} is missing{_more(missing)}")
    if unexpected:
        texts.append(f"{unexpected[0]!r} is not expected{_more(unexpected)}")
    if other:
        name = other[0]
        texts.append(f"{name!r} has shape {[*found[name]]}, {says} {[*wanted[name]]}{_more(other)}")
        if name.endswith(NULL_LABEL) and found[name][0] + 1 == wanted[name][0]:
            texts.append("the missing last row is the null label: this checkpoint was trained without one")
    return "; ".join(texts)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
