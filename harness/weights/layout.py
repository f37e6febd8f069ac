"""Which parameters a network's flat vector holds, and in which order. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from harness.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the varied parameters, in the order in which a vector holds them."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """How many numbers each parameter has."""
        return [prod(shape) for shape in self.shapes]

    @property
    def length(self) -> int:
        """How many numbers a vector has."""
        return sum(self.sizes)

    def save(self, path: Path) -> None:
        """Writes the layout as JSON."""
        path.write_text(json.dumps({"names": self.names, "shapes": self.shapes}))

    @staticmethod
    def load(path: Path) -> "Layout":
        """Reads what `save` wrote."""
        values = json.loads(path.read_text())
        return Layout(tuple(values["names"]), tuple(tuple(shape) for shape in values["shapes"]))


def layout_of(shapes: Mapping[str, Sequence[int]], prefixes: Sequence[str]) -> Layout:
    """Returns the layout of the parameters whose names start with one of `prefixes`, in the network's order.

    Raises `UserError` if a prefix names nothing.
    """
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in shapes):
            raise UserError(
                f"weights.parameters: {prefix!r} names no parameter; {did_you_mean(prefix, shapes)}"
            )
    names = [name for name in shapes if name.startswith(tuple(prefixes))]
    return Layout(tuple(names), tuple(tuple(shapes[name]) for name in names))
