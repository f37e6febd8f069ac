"""Which parameters a network's flat vector holds, and in which order. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import UserError
from harness.models.classifiers.networks import Outline, canonical_names

MOST_TOLD = 12  # tensors that are listed one by one


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

    def to_json(self) -> dict[str, Any]:
        """Returns the layout as JSON-like values."""
        return {"names": list(self.names), "shapes": [list(shape) for shape in self.shapes]}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Layout":
        """Reads what `to_json` returns."""
        return Layout(tuple(values["names"]), tuple(tuple(shape) for shape in values["shapes"]))

    def save(self, path: Path) -> None:
        """Writes the layout as JSON."""
        path.write_text(json.dumps(self.to_json()))

    @staticmethod
    def load(path: Path) -> "Layout":
        """Reads what `save` wrote."""
        return Layout.from_json(json.loads(path.read_text()))


def layout_of(
    outline: Outline,
    patterns: Sequence[str],
    locations: Mapping[str, Sequence[str]],
    buffers: Literal["base", "collected"] = "base",
) -> Layout:
    """Returns the layout of the parameters that any of `patterns` names, in the network's order.

    A pattern is "all", a key of `locations`, a name, a prefix of one, or a glob with `*`; names are those of the
    network or of torchvision and timm. With collected buffers each module's running statistics follow its varied
    parameters. Raises `UserError` if a pattern names nothing.
    """
    called = canonical_names(outline.parameters)
    chosen: set[str] = set()
    for pattern in patterns:
        found = set(called) if pattern == "all" else _named(locations.get(pattern, [pattern]), called)
        if not found:
            raise _names_nothing(pattern, called, locations)
        chosen |= found
    shapes: dict[str, tuple[int, ...]] = {}
    for module, names in groupby(outline.parameters, key=_module):
        varied = [name for name in names if name in chosen]
        shapes |= {name: tuple(outline.parameters[name]) for name in varied}
        if varied and buffers == "collected":
            shapes |= {
                name: tuple(shape) for name, shape in outline.buffers.items() if _module(name) == module
            }
    return Layout(tuple(shapes), tuple(shapes.values()))


def lines(outline: Outline, layout: Layout, locations: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns lines about the varied parameters: how many, which, and how buffers are treated."""
    called = canonical_names([*outline.parameters, *outline.buffers])
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    varied = [name for name in layout.names if name in outline.parameters]
    count = sum(prod(shapes[name]) for name in varied)
    of = sum(map(prod, outline.parameters.values()))
    told = [
        _line(name, called[name], shapes[name])
        for name in (varied if len(varied) <= MOST_TOLD else varied[: MOST_TOLD - 1])
    ]
    if len(varied) > MOST_TOLD:
        told.append(f"  ... {len(varied) - len(told) - 1} more, then")
        told.append(_line(varied[-1], called[varied[-1]], shapes[varied[-1]]))
    return [
        f"varied: {count:,} of {of:,} parameters, in {len(varied)} of {len(outline.parameters)} tensors",
        *told,
        _about_buffers(outline, layout),
        f"named parts: {', '.join(['all', *locations])}",
    ]


def _line(name: str, called: str, shape: tuple[int, ...]) -> str:
    return f"  {name}{'' if called == name else f' ({called})'} {' x '.join(map(str, shape)) or 'one number'}"


def _about_buffers(outline: Outline, layout: Layout) -> str:
    numbers = sum(map(prod, outline.buffers.values()))
    collected = sum(prod(shape) for name, shape in outline.buffers.items() if name in layout.names)
    if not numbers:
        return "buffers: the network has none"
    if not collected:
        return f"buffers: all {numbers:,} running statistics stay those of the base network"
    return (
        f"buffers: {collected:,} of {numbers:,} running statistics are in the vector, the others stay those of the "
        "base network"
    )


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _named(patterns: Sequence[str], called: Mapping[str, str]) -> set[str]:
    """Returns the parameters that any pattern names, by either of a parameter's names."""
    return {name for name, other in called.items() for one in patterns if _is(name, one) or _is(other, one)}


def _is(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) if "*" in pattern else name.startswith(pattern)


def _names_nothing(
    pattern: str, called: Mapping[str, str], locations: Mapping[str, Sequence[str]]
) -> UserError:
    names = dict.fromkeys([*locations, *called.values(), *called])
    near = get_close_matches(pattern, names, n=3, cutoff=0.5)
    question = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    return UserError(
        f"weights.parameters: {pattern!r} names no parameter; {question}known: {', '.join(['all', *locations])}, "
        f"names of parameters such as {list(called.values())[-1]}, prefixes of names, and patterns with *"
    )
