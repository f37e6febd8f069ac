"""`search: auto` by screening, ours: cheap probes find timestep, block and pool, few heads are fitted there. Pure.

It relies on three facts: accuracy has a single peak over noise levels (arXiv 2502.05743), so a few timesteps find it;
once an image is passed, all blocks and pools come at no extra cost; a ridge probe on some of the images ranks
settings cheaply, and blocks agree about which timestep is good.

1. Screening probes of two blocks at three timesteps, then between the best and its neighbours; of one block, if the
   budget is small.
2. At the best timestep, probes of all blocks, then of the best blocks' other pools, as far as the budget goes.
3. All images are passed at the best timestep. Half of the fits are spent there, on the settings that screened best:
   all heads on the first few, then the better half of the heads on the next few, until one head is left.
4. The other half refits the best of them at the next best timesteps, where probes cannot tell the difference.
"""

from collections.abc import Sequence
from math import ceil, inf, log2

from harness.features.choose import (
    PROFILED,
    Candidate,
    Evaluated,
    Method,
    SearchSpace,
    full_passes,
    most_screened,
    most_screens,
    rounds,
    screens_needed,
)


def run(space: SearchSpace, evaluated: Evaluated) -> None:
    """Evaluates screening probes, then fits."""
    probes = _Probes(space, evaluated)
    order = [space.timesteps[position] for position in probes.positions()]
    order = order[: full_passes(len(space.timesteps))]
    settings = probes.settings(order[0])
    heads = _fit_heads(space, evaluated, settings, ceil(evaluated.left / 2) if order[1:] else evaluated.left)
    for place, timestep in enumerate(order[1:]):
        fitted = {one: value for one, value in evaluated.values.items() if one.head and value > -inf}
        best = sorted(fitted, key=fitted.__getitem__, reverse=True)
        again = list(dict.fromkeys(one._replace(timestep=timestep) for one in best))
        evaluated.of(again[: evaluated.left // (len(order) - 1 - place)])
    evaluated.of(setting._replace(head=head) for head in heads for setting in settings)


class _Probes:
    """The screening probes, within their share of the budget; further ones are left out, not asked for."""

    def __init__(self, space: SearchSpace, evaluated: Evaluated) -> None:
        self._space, self._evaluated = space, evaluated
        self._left = most_screens(space)
        enough = screens_needed(len(space.timesteps), len(space.blocks), len(space.pools)) <= self._left
        self._profiled = PROFILED if enough else 1

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
        blocks = spread(self._space.blocks, self._profiled)
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
        count = max(1, left // (rungs - rung) // len(heads))
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
