"""How `search: auto` chooses block, timestep, pool and head: what to evaluate next, given what is known. Pure.

It relies on three facts: accuracy has a single peak over noise levels (arXiv 2502.05743), so a few timesteps find it;
once an image is passed, all blocks and pools come at no extra cost; a ridge probe on some of the images ranks
settings cheaply.

1. Screening: ridge probes of all blocks and pools at three timesteps, then between the best and its neighbours.
2. All images are passed at the best timestep only (at several if the grid has many).
3. Heads are fitted there, on the settings that screened best: all heads on the first few, then the better half of
   the heads on the next few, until one head is left or the budget of fits is spent.
"""

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import NamedTuple

PASSES = 1 / 4  # largest share of the grid's image passes, for grids of six timesteps or more
FITS = 1 / 10  # largest share of the grid's head fits, but at least two per head
FEWEST_TIMESTEPS = 8  # of the grid per timestep at which all images are passed
SMALLEST_SHARE, LARGEST_SHARE = 0.1, 0.5  # of a full pass, for the screening of one timestep
LEADERS = 1 / 4  # share of a timestep's settings whose mean accuracy is the timestep's score


class Candidate(NamedTuple):
    """A setting to evaluate, with a head, or by a screening probe if `head` is None."""

    timestep: int
    block: int
    pool: int
    head: str | None


class SearchSpace(NamedTuple):
    """What to choose from: every combination of timestep, setting and head."""

    timesteps: tuple[int, ...]  # ascending
    settings: tuple[tuple[int, int], ...]  # (block, pool)
    heads: tuple[str, ...]
    fits: int  # largest number of head fits

    @property
    def grid(self) -> int:
        """The number of fits of the whole grid."""
        return len(self.timesteps) * len(self.settings) * len(self.heads)


Known = Mapping[Candidate, float | None]  # validation accuracy; None if it failed


def most_fits(grid: int, heads: int, trials: int) -> int:
    """Returns the largest number of head fits: a tenth of the grid, at least two per head, never above `trials`."""
    return min(grid, trials, max(int(grid * FITS), 2 * heads))


def rounds(timesteps: int) -> int:
    """Returns how many times the spacing of screened timesteps is halved after the first three."""
    return max(1, int(log2((timesteps + 1) / 4)))


def most_screened(timesteps: int) -> int:
    """Returns the largest number of screened timesteps: three, plus two per round."""
    return min(timesteps, 3 + 2 * rounds(timesteps))


def full_passes(timesteps: int) -> int:
    """Returns at how many timesteps all images are passed."""
    return max(1, timesteps // FEWEST_TIMESTEPS)


def screen_share(timesteps: int) -> float:
    """Returns the share of a full pass that screening one timestep takes, so that the total stays within `PASSES`."""
    left = PASSES * timesteps - full_passes(timesteps)
    return min(max(left / most_screened(timesteps), SMALLEST_SHARE), LARGEST_SHARE)


def next_candidates(space: SearchSpace, known: Known) -> list[Candidate]:
    """Returns what to evaluate next; nothing when the search is done.

    Depends on `known` alone, so a search resumes after any interruption; candidates still running are returned again.
    """
    count = len(space.timesteps)
    positions = first_positions(count)
    for halvings_left in range(rounds(count), -1, -1):
        wanted = [_screen(space, position, setting) for position in positions for setting in space.settings]
        if missing := [candidate for candidate in wanted if candidate not in known]:
            return missing
        best = max(positions, key=lambda position: timestep_score(space, known, position))
        if halvings_left:
            positions = sorted({*positions, *between(positions, best, count)})
    return _heads_next(space, known, positions)


def first_positions(count: int) -> list[int]:
    """Returns the positions of the first three of `count` timesteps, evenly spaced."""
    return sorted({min(count - 1, max(0, round(part * (count + 1) / 4) - 1)) for part in (1, 2, 3)})


def between(positions: Sequence[int], best: int, count: int) -> list[int]:
    """Returns the positions halfway from `best` to its neighbours among `positions`, or to the ends."""
    below = max((position for position in positions if position < best), default=-1)
    above = min((position for position in positions if position > best), default=count)
    halves = ((below + best) // 2, (best + above + 1) // 2)
    return [position for position in halves if 0 <= position < count and position not in positions]


def timestep_score(space: SearchSpace, known: Known, position: int) -> float:
    """Returns the mean accuracy of a screened timestep's best settings, which is less noisy than the maximum."""
    found = [known[_screen(space, position, setting)] for setting in space.settings]
    values = sorted((value for value in found if value is not None), reverse=True)
    leaders = values[: max(1, ceil(LEADERS * len(space.settings)))]
    return sum(leaders) / len(leaders) if leaders else float("-inf")


def _screen(space: SearchSpace, position: int, setting: tuple[int, int]) -> Candidate:
    return Candidate(space.timesteps[position], *setting, None)


def _heads_next(space: SearchSpace, known: Known, positions: Sequence[int]) -> list[Candidate]:
    """Returns the fits of the first rung that is not complete."""
    chosen = sorted(positions, key=lambda position: timestep_score(space, known, position), reverse=True)
    chosen = chosen[: full_passes(len(space.timesteps))]
    screens = [_screen(space, position, setting) for position in chosen for setting in space.settings]
    screens = [candidate for candidate in screens if known[candidate] is not None]
    screens.sort(key=lambda candidate: known[candidate] or 0.0, reverse=True)
    heads, left = list(space.heads), space.fits
    rungs = 1 + ceil(log2(len(heads)))
    for rung in range(rungs):
        count = max(1, left // (rungs - rung) // len(heads))
        rung_candidates = [candidate._replace(head=head) for candidate in screens[:count] for head in heads][
            :left
        ]
        if missing := [candidate for candidate in rung_candidates if candidate not in known]:
            return missing
        screens, left = screens[count:], left - len(rung_candidates)
        heads.sort(key=lambda head: _best(known, rung_candidates, head), reverse=True)
        heads = heads[: ceil(len(heads) / 2)]
    return []


def _best(known: Known, candidates: Sequence[Candidate], head: str) -> float:
    values = [known[candidate] for candidate in candidates if candidate.head == head]
    return max((value for value in values if value is not None), default=float("-inf"))


class Chooser:
    """Maps candidates to trials, for the search of this study."""

    def __init__(self, space: SearchSpace, keys: Mapping[Candidate, str]) -> None:
        """`keys` are the keys of the trials of all candidates in `space`, screening probes included."""
        self.space, self._keys = space, keys

    def next(self, known: Mapping[str, float | None]) -> list[str]:
        """Returns the keys of trials to run now; nothing when the search is done.

        `known` are validation accuracies by key, None for failures. Called whenever a trial has ended; trials still
        running are returned again.
        """
        found = {candidate: known[key] for candidate, key in self._keys.items() if key in known}
        return [self._keys[candidate] for candidate in next_candidates(self.space, found)]

    def longest(self) -> list[str]:
        """Returns the keys of a largest possible search, by trials and by passes."""
        timesteps = self.space.timesteps
        screened = timesteps[: most_screened(len(timesteps))]
        passed = timesteps[: full_passes(len(timesteps))]
        screens = [
            key
            for candidate, key in self._keys.items()
            if not candidate.head and candidate.timestep in screened
        ]
        fits = [
            key for candidate, key in self._keys.items() if candidate.head and candidate.timestep in passed
        ]
        return screens + fits[: self.space.fits]
