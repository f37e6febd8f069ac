"""The blocks of a backbone as data: location, output shape, and the cost up to there. No torch.

Costs are multiply-accumulates of convolutions, attention and linear layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

OUTPUT = "output"
# Where in a block features can be read: its output, or that of one of its parts. A block has some of the parts.
AFTER = (OUTPUT, "resnet", "attention", "cross-attention", "mlp", "query", "key", "value")


class Point(NamedTuple):
    """A part of a block whose output can be read as well."""

    after: str  # one of `AFTER`, other than the block's output
    name: str  # path of the module
    channels: int
    size: int  # height and width of the feature map


class Block(NamedTuple):
    """A block whose output can be read as features, or a part of it."""

    number: int  # from 1
    name: str  # path of the module
    channels: int
    size: int  # height and width of the feature map, in pixels, latent pixels or tokens
    cost: float = 0.0  # multiply-accumulates of one image's pass up to and including this block
    share: float = 1.0  # `cost` relative to that of the whole network
    after: str = OUTPUT  # what is read
    points: tuple[Point, ...] = ()  # its parts that can be read instead of its output

    def read_after(self, after: str) -> "Block | None":
        """Returns the block as read after one of its parts (at the cost of the whole block); None without it."""
        if after == OUTPUT:
            return self
        found = next((point for point in self.points if point.after == after), None)
        if found is None:
            return None
        return self._replace(after=after, name=found.name, channels=found.channels, size=found.size)


class Step(NamedTuple):
    """The computation from one block to the next, ending with the latter's output."""

    name: str
    channels: int
    size: int
    cost: float
    points: tuple[Point, ...] = ()


def numbered(steps: Sequence[Step], rest: float) -> list[Block]:
    """Returns the table of blocks at which steps end; `rest` is the cost after the last one."""
    total = sum(step.cost for step in steps) + rest
    table, reached = [], 0.0
    for number, step in enumerate(steps, start=1):
        reached += step.cost
        block = Block(number, step.name, step.channels, step.size, reached, reached / total)
        table.append(block._replace(points=step.points))
    return table


def multiplications(passed: Sequence[Block]) -> float:
    """Returns the multiply-accumulates of one image's pass that ends at the last of these blocks."""
    return passed[-1].cost
