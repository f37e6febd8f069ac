"""The blocks of a backbone as data: location, output shape, and the cost up to there. No torch.

Costs are multiply-accumulates of convolutions, attention and linear layers, which families compute from shapes.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """A block whose output can be read as features."""

    number: int  # from 1
    name: str  # path of the module
    channels: int
    size: int  # height and width of the feature map, in pixels, latent pixels or tokens
    cost: float = 0.0  # multiply-accumulates of one image's pass up to and including this block
    share: float = 1.0  # `cost` relative to that of the whole network


class Step(NamedTuple):
    """The computation from one block to the next, ending with the latter's output."""

    name: str
    channels: int
    size: int
    cost: float


def numbered(steps: Sequence[Step], rest: float) -> list[Block]:
    """Returns the table of blocks at which steps end; `rest` is the cost after the last one."""
    total = sum(step.cost for step in steps) + rest
    table, reached = [], 0.0
    for number, step in enumerate(steps, start=1):
        reached += step.cost
        table.append(Block(number, step.name, step.channels, step.size, reached, reached / total))
    return table


def multiplications(passed: Sequence[Block]) -> float:
    """Returns the multiply-accumulates of one image's pass that ends at the last of these blocks."""
    return passed[-1].cost
