"""`search: auto` as published by others, to compare with: by the high-frequency ratio, and by local search. Pure.

Both choose timestep and block with one pool and head, the largest and the first, then fit the other pools and heads
there. As long as the budget allows they go on where they would look next, so that they lose nothing by ending early.
"""

from collections.abc import Iterator
from math import ceil

from harness.features.choose import Candidate, Evaluated, Method, SearchSpace


def frequency(space: SearchSpace, evaluated: Evaluated) -> None:
    """A-SelecT (arXiv 2603.25758): the timestep whose features have the largest high-frequency ratio.

    It is measured once, on few images and without labels (`harness.metrics.frequencies`): the mean over the blocks.
    The paper chooses the block beforehand; here it is the best for one head at that timestep. Then come the next best
    blocks, then the next largest ratio.
    """
    ratios = evaluated.of(Candidate(timestep, None, None, None) for timestep in space.timesteps)
    for one in sorted(ratios, key=ratios.__getitem__, reverse=True):
        blocks = evaluated.of(_plain(space, one.timestep, block) for block in _from_the_middle(space.blocks))
        for plain in sorted(blocks, key=blocks.__getitem__, reverse=True):
            evaluated.of(_all_of(space, plain))


def local(space: SearchSpace, evaluated: Evaluated) -> None:
    """Local search over block x timestep (Diff-Feat, arXiv 2509.15553): to the best neighbour until none is better.

    It starts in the middle of both, where the paper found the best image features; neighbours are one block or one
    timestep of the grid away. Then it starts again from the middle of each quarter.
    """
    for start in _starts(space):
        here = evaluated.best([_at(space, *start)])
        while True:
            around = evaluated.best([here, *_neighbours(space, here)])
            if around == here:
                break
            here = around
        evaluated.of(_all_of(space, here))


def _plain(space: SearchSpace, timestep: int, block: int) -> Candidate:
    return Candidate(timestep, block, space.pools[-1], space.heads[0])


def _at(space: SearchSpace, timestep: int, block: int) -> Candidate:
    """Returns the candidate at positions of timestep and block."""
    return _plain(space, space.timesteps[timestep], space.blocks[block])


def _all_of(space: SearchSpace, one: Candidate) -> list[Candidate]:
    """Returns every pool and head of a block and timestep."""
    return [one._replace(pool=pool, head=head) for pool in reversed(space.pools) for head in space.heads]


def _neighbours(space: SearchSpace, here: Candidate) -> list[Candidate]:
    timestep, block = space.timesteps.index(here.timestep), space.blocks.index(here.block or 0)
    around = [(timestep - 1, block), (timestep + 1, block), (timestep, block - 1), (timestep, block + 1)]
    return [
        _at(space, *one)
        for one in around
        if 0 <= one[0] < len(space.timesteps) and 0 <= one[1] < len(space.blocks)
    ]


def _starts(space: SearchSpace) -> Iterator[tuple[int, int]]:
    """Yields positions of timestep and block: the middle, then the middle of each quarter."""
    timesteps, blocks = len(space.timesteps), len(space.blocks)
    yield timesteps // 2, blocks // 2
    for along, across in ((1, 1), (3, 3), (1, 3), (3, 1)):
        yield along * timesteps // 4, across * blocks // 4


def _from_the_middle(blocks: tuple[int, ...]) -> list[int]:
    middle = blocks[len(blocks) // 2]
    return sorted(blocks, key=lambda block: abs(blocks.index(block) - blocks.index(middle)))


def _passed_by_frequency(space: SearchSpace) -> int:
    each = len(space.blocks) * len(space.pools) * len(space.heads)
    return min(len(space.timesteps), ceil(space.budget / each))


FREQUENCY = Method(
    frequency,
    measured=lambda space: len(space.timesteps),
    screened=lambda space: 0,
    passed=_passed_by_frequency,
)
LOCAL = Method(
    local,
    measured=lambda space: 0,
    screened=lambda space: 0,
    passed=lambda space: min(len(space.timesteps), space.budget),
)
