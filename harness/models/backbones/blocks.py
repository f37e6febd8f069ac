"""The blocks of a backbone as data: where each is, what it outputs, what it costs to reach. No torch.

A family counts multiply-accumulates of convolutions, attention and linear layers from the shapes alone.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """One place where features are read."""

    number: int  # from 1
    name: str  # the module whose output it is
    channels: int
    size: int  # height and width of the feature map, in pixels, latent pixels or tokens
    cost: float = 0.0  # multiply-accumulates of one image's pass up to and including this block
    share: float = 1.0  # of those of the whole network


class Step(NamedTuple):
    """What runs between two blocks, ending at the second."""

    name: str
    channels: int
    size: int
    cost: float


def numbered(steps: Sequence[Step], rest: float) -> list[Block]:
    """Returns the table of blocks that steps end at, with `rest` as the cost of what follows the last."""
    total = sum(step.cost for step in steps) + rest
    table, reached = [], 0.0
    for number, step in enumerate(steps, start=1):
        reached += step.cost
        table.append(Block(number, step.name, step.channels, step.size, reached, reached / total))
    return table


def multiplications(passed: Sequence[Block]) -> float:
    """Returns the multiply-accumulates of one image's pass that ends at the last of these blocks."""
    return passed[-1].cost
