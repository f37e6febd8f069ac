"""`search: auto` by screening, ours: probes on some images find where to begin, head fits climb from there. Pure.

It relies on three facts: accuracy has a single peak over noise levels (arXiv 2502.05743), so a few timesteps find it;
once an image is passed, all blocks and pools come at no extra cost; a ridge probe on some of the images ranks
settings cheaply, and blocks agree about which timestep is good.

1. Screening probes of two blocks, or one if the budget is small, at three timesteps, then between the best and its
   neighbours. At the best timestep probes of all blocks, then of the best blocks' other pools, as far as they may.
2. All images are passed there. Two fifths of the fits: all heads on the settings that screened best, then the better
   half of the heads on the next, until one is left.
3. From the best of them fits climb to neighbouring timesteps, blocks and pools as long as accuracy rises: probes on
   some of the images cannot tell neighbouring timesteps apart, and not all blocks and pools were screened.
4. The remaining fits, in two rounds, go in turn to the settings that screened next best, at the best timestep, and to
   the best settings, at the other timesteps that were passed.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from math import ceil, inf, log2

from harness.features.choose import (
    Candidate,
    Evaluated,
    Method,
    SearchSpace,
    full_passes,
    most_screened,
    most_screens,
    profiled,
    rounds,
)

FIRST = 2 / 5  # of the fits, for the choice of the head
FEWEST = 2  # settings on which heads are compared, if the fits suffice


def run(space: SearchSpace, evaluated: Evaluated) -> None:
    """Evaluates screening probes, then fits."""
    probes = _Probes(space, evaluated)
    first = space.timesteps[probes.positions()[0]]
    settings = probes.settings(first)
    heads = _fit_heads(space, evaluated, settings, ceil(FIRST * evaluated.left))
    passed = _climb(space, evaluated, first)
    for share in (2, 1):
        further = list(_further(evaluated, settings, heads, passed))
        evaluated.of(further[: ceil(evaluated.left / share)])
    evaluated.of(_further(evaluated, settings, heads, passed))


def _climb(space: SearchSpace, evaluated: Evaluated, first: int) -> list[int]:
    """Moves to the best of the neighbouring fits until none is better; returns the timesteps passed.

    Neighbours are one timestep, block or pool away. Blocks and pools that were screened at the first timestep are
    none: they were not the best there.
    """
    passed = [first]
    while best := _best_first(evaluated)[:1]:
        here = best[0]
        timesteps = _beside(space.timesteps, here.timestep)
        new = [one for one in timesteps if one not in passed]
        passed += new[: full_passes(len(space.timesteps)) - len(passed)]
        near = [here._replace(timestep=one) for one in timesteps if one in passed]
        near += [here._replace(block=one) for one in _beside(space.blocks, here.block)]
        near += [here._replace(pool=one) for one in _beside(space.pools, here.pool)]
        evaluated.of(
            one
            for one in near
            if one.timestep != here.timestep
            or one._replace(timestep=first, head=None) not in evaluated.values
        )
        if _best_first(evaluated)[:1] == best:
            break
    return passed


def _beside(values: Sequence[int], value: int | None) -> list[int]:
    """Returns the neighbours of a value."""
    assert value is not None, "a fit has a block and a pool"
    place = values.index(value)
    return [values[one] for one in (place - 1, place + 1) if 0 <= one < len(values)]


def _best_first(evaluated: Evaluated) -> list[Candidate]:
    """Returns all fits that did not fail, the best first."""
    fits = [one for one, value in evaluated.values.items() if one.head and value > -inf]
    return sorted(fits, key=evaluated.values.__getitem__, reverse=True)


def _further(
    evaluated: Evaluated, settings: Sequence[Candidate], heads: Sequence[str], passed: Sequence[int]
) -> Iterator[Candidate]:
    """Yields what has not been fitted of the settings, at the timesteps passed, the most promising first."""
    fits = _best_first(evaluated)
    best = fits[0] if fits else settings[0]._replace(head=heads[0])
    next_screened = [one._replace(timestep=best.timestep, head=best.head) for one in settings]
    elsewhere = [one._replace(timestep=timestep) for one in fits for timestep in passed]
    rest = [
        one._replace(timestep=timestep, head=head)
        for head in heads
        for one in settings
        for timestep in passed
    ]
    fresh = ([one for one in ones if one not in evaluated.values] for ones in (next_screened, elsewhere))
    in_turn = (one for pair in zip_longest(*fresh) for one in pair if one is not None)
    for one in dict.fromkeys(chain(in_turn, rest)):
        if one not in evaluated.values:
            yield one


class _Probes:
    """The screening probes, within their share of the budget; further ones are left out, not asked for."""

    def __init__(self, space: SearchSpace, evaluated: Evaluated) -> None:
        self._space, self._evaluated = space, evaluated
        self._left = most_screens(space)

    def positions(self) -> list[int]:
        """Returns the positions of the screened timesteps, the best first; the middle one if none could be."""
        count = len(self._space.timesteps)
        positions = first_positions(count)
        for _ in range(rounds(count)):
            scores = self._scores(positions)
            best = max(positions, key=scores.__getitem__)
            positions = sorted({*positions, *between(positions, best, count)})
        scores = self._scores(positions)
        found = [position for position in positions if scores[position] > -inf]
        return sorted(found, key=scores.__getitem__, reverse=True) or [count // 2]

    def _scores(self, positions: Sequence[int]) -> dict[int, float]:
        """Returns the mean accuracy of the profiled blocks at each position, -inf where none could be screened."""
        blocks = spread(self._space.blocks, profiled(self._space))
        pool = self._space.pools[-1]
        wanted = {
            position: [Candidate(self._space.timesteps[position], block, pool, None) for block in blocks]
            for position in positions
        }
        found = self._of([one for ones in wanted.values() for one in ones])
        scores = {}
        for position, ones in wanted.items():
            values = [found[one] for one in ones if found.get(one, -inf) > -inf]
            scores[position] = sum(values) / len(values) if values else -inf
        return scores

    def settings(self, timestep: int) -> list[Candidate]:
        """Returns the settings at a timestep that were screened, the best first; the middle one if none was."""
        space = self._space
        found = self._of([Candidate(timestep, block, space.pools[-1], None) for block in space.blocks])
        for one in sorted(found, key=found.__getitem__, reverse=True):
            others = [one._replace(pool=pool) for pool in reversed(space.pools[:-1])]
            found |= self._of(others)
        best = sorted((one for one in found if found[one] > -inf), key=found.__getitem__, reverse=True)
        return best or [Candidate(timestep, space.blocks[len(space.blocks) // 2], space.pools[-1], None)]

    def _of(self, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
        fresh = [one for one in candidates if one not in self._evaluated.values]
        allowed = fresh[: self._left]
        found = self._evaluated.of([one for one in candidates if one not in fresh or one in allowed])
        self._left -= len(allowed)
        return found


def _fit_heads(
    space: SearchSpace, evaluated: Evaluated, settings: Sequence[Candidate], left: int
) -> list[str]:
    """Fits heads on the best settings by successive halving, with `left` fits; returns the heads, the best first."""
    heads, dropped = list(space.heads), list[str]()
    rungs = 1 + ceil(log2(len(heads)))
    for rung in range(rungs):
        count = max(left // (rungs - rung) // len(heads), min(FEWEST, left // len(heads)), 1)
        fits = [setting._replace(head=head) for setting in settings[:count] for head in heads][:left]
        if not fits:
            break
        values = evaluated.of(fits)
        settings, left = settings[count:], left - len(fits)

        def best(head: str, values: dict[Candidate, float] = values) -> float:
            return max((value for one, value in values.items() if one.head == head), default=-inf)

        heads.sort(key=best, reverse=True)
        kept = ceil(len(heads) / 2)
        heads, dropped = heads[:kept], heads[kept:] + dropped
    return heads + dropped


def spread(values: Sequence[int], count: int) -> list[int]:
    """Returns `count` of some values, or all if there are fewer, evenly spaced from each other and from the ends."""
    count = min(count, len(values))
    return [values[round((place + 1) * (len(values) + 1) / (count + 1)) - 1] for place in range(count)]


def first_positions(count: int) -> list[int]:
    """Returns the positions of the first three of `count` timesteps, evenly spaced."""
    return spread(range(count), 3)


def between(positions: Sequence[int], best: int, count: int) -> list[int]:
    """Returns the positions halfway from `best` to its neighbours among `positions`, or to the ends."""
    below = max((position for position in positions if position < best), default=-1)
    above = min((position for position in positions if position > best), default=count)
    halves = ((below + best) // 2, (best + above + 1) // 2)
    return [position for position in halves if 0 <= position < count and position not in positions]


SCREENING = Method(
    run,
    measured=lambda space: 0,
    screened=lambda space: most_screened(len(space.timesteps)),
    passed=lambda space: full_passes(len(space.timesteps)),
)
