"""How `search: auto` chooses block, timestep, pool and head: what to look at next, given what is known. Pure.

What is used: accuracy rises and falls once along the noise level (arXiv 2502.05743), so a few timesteps find the
peak; within one pass all blocks and pools are free; a ridge probe on some of the images ranks settings cheaply.

1. Screens: at three timesteps, then between the best and its neighbours, ridge probes of all blocks and pools.
2. The whole data set is passed at the best timestep only (at several where the grid has many).
3. Heads are fitted there on the settings that did best in their screens: all heads on the first few, then the
   better half of the heads on the next few, until one is left or the fits are used up.
"""

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import NamedTuple

PASSES = 1 / 4  # of the grid's image passes, at most, where the grid has six timesteps or more
FITS = 1 / 10  # of the grid's head fits, at most, but two a head
FEWEST_TIMESTEPS = 8  # of the grid, for each one that is passed in full
SMALLEST_SHARE, LARGEST_SHARE = 0.1, 0.5  # of a full pass that one screen takes
LEADERS = 1 / 4  # of a timestep's settings: the mean of the best is the timestep's mark


class Look(NamedTuple):
    """A setting to look at, with a head, or by a screen where `head` is None."""

    timestep: int
    block: int
    pool: int
    head: str | None


class Space(NamedTuple):
    """What there is to choose from. Every timestep has all settings, every setting all heads."""

    timesteps: tuple[int, ...]  # ascending
    settings: tuple[tuple[int, int], ...]  # (block, pool)
    heads: tuple[str, ...]
    fits: int  # of heads, at most

    @property
    def grid(self) -> int:
        """How many fits the whole grid is."""
        return len(self.timesteps) * len(self.settings) * len(self.heads)


Known = Mapping[Look, float | None]  # validation accuracy by what was looked at; None for a failure


def most_fits(grid: int, heads: int, trials: int) -> int:
    """Returns how many heads are fitted at most: a tenth of the grid, but two a head, and `trials` in any case."""
    return min(grid, trials, max(int(grid * FITS), 2 * heads))


def rounds(timesteps: int) -> int:
    """Returns how often the distance between screened timesteps is halved after the first three."""
    return max(1, int(log2((timesteps + 1) / 4)))


def most_screened(timesteps: int) -> int:
    """Returns at how many timesteps there are screens at most: three, and two a round."""
    return min(timesteps, 3 + 2 * rounds(timesteps))


def full_passes(timesteps: int) -> int:
    """Returns at how many timesteps all images are passed."""
    return max(1, timesteps // FEWEST_TIMESTEPS)


def screen_share(timesteps: int) -> float:
    """Returns how much of a full pass each screen takes, so that all together stay within `PASSES`."""
    left = PASSES * timesteps - full_passes(timesteps)
    return min(max(left / most_screened(timesteps), SMALLEST_SHARE), LARGEST_SHARE)


def look_next(space: Space, known: Known) -> list[Look]:
    """Returns what to look at next; nothing when the search is done.

    Depends on `known` alone: a search continues after any interruption, and asks again for what is under way.
    """
    count = len(space.timesteps)
    places = first_places(count)
    for halvings_left in range(rounds(count), -1, -1):
        asked = [_screen(space, place, setting) for place in places for setting in space.settings]
        if missing := [look for look in asked if look not in known]:
            return missing
        best = max(places, key=lambda place: mark(space, known, place))
        if halvings_left:
            places = sorted({*places, *between(places, best, count)})
    return _heads_next(space, known, places)


def first_places(count: int) -> list[int]:
    """Returns the places of the first three of `count` timesteps, evenly spaced."""
    return sorted({min(count - 1, max(0, round(part * (count + 1) / 4) - 1)) for part in (1, 2, 3)})


def between(places: Sequence[int], best: int, count: int) -> list[int]:
    """Returns the places half way from `best` to its neighbours among `places`, or to the ends."""
    below = max((place for place in places if place < best), default=-1)
    above = min((place for place in places if place > best), default=count)
    halves = ((below + best) // 2, (best + above + 1) // 2)
    return [place for place in halves if 0 <= place < count and place not in places]


def mark(space: Space, known: Known, place: int) -> float:
    """Returns how good a screened timestep looks: the mean of its best settings, less noisy than the very best."""
    found = [known[_screen(space, place, setting)] for setting in space.settings]
    values = sorted((value for value in found if value is not None), reverse=True)
    leaders = values[: max(1, ceil(LEADERS * len(space.settings)))]
    return sum(leaders) / len(leaders) if leaders else float("-inf")


def _screen(space: Space, place: int, setting: tuple[int, int]) -> Look:
    return Look(space.timesteps[place], *setting, None)


def _heads_next(space: Space, known: Known, places: Sequence[int]) -> list[Look]:
    """Returns the fits of the first rung that is not complete."""
    chosen = sorted(places, key=lambda place: mark(space, known, place), reverse=True)
    chosen = chosen[: full_passes(len(space.timesteps))]
    screens = [_screen(space, place, setting) for place in chosen for setting in space.settings]
    screens = [look for look in screens if known[look] is not None]
    screens.sort(key=lambda look: known[look] or 0.0, reverse=True)
    heads, left = list(space.heads), space.fits
    rungs = 1 + ceil(log2(len(heads)))
    for rung in range(rungs):
        count = max(1, left // (rungs - rung) // len(heads))
        rung_looks = [look._replace(head=head) for look in screens[:count] for head in heads][:left]
        if missing := [look for look in rung_looks if look not in known]:
            return missing
        screens, left = screens[count:], left - len(rung_looks)
        heads.sort(key=lambda head: _best(known, rung_looks, head), reverse=True)
        heads = heads[: ceil(len(heads) / 2)]
    return []


def _best(known: Known, looks: Sequence[Look], head: str) -> float:
    values = [known[look] for look in looks if look.head == head]
    return max((value for value in values if value is not None), default=float("-inf"))


class Chooser:
    """The above in terms of trials: what a search of this study asks."""

    def __init__(self, space: Space, keys: Mapping[Look, str]) -> None:
        """`keys` are trials' keys by what they look at: all of `space`, and its screens."""
        self.space, self._keys = space, keys

    def next(self, known: Mapping[str, float | None]) -> list[str]:
        """Returns the keys of trials to run now; nothing when the search is done.

        `known` are validation accuracies by key, None for what failed. Called whenever a trial has ended; what is
        under way is returned again.
        """
        found = {look: known[key] for look, key in self._keys.items() if key in known}
        return [self._keys[look] for look in look_next(self.space, found)]

    def longest(self) -> list[str]:
        """Returns the keys of as many trials, and of as many passes, as a search takes at most."""
        timesteps = self.space.timesteps
        screened = timesteps[: most_screened(len(timesteps))]
        passed = timesteps[: full_passes(len(timesteps))]
        screens = [key for look, key in self._keys.items() if not look.head and look.timestep in screened]
        fits = [key for look, key in self._keys.items() if look.head and look.timestep in passed]
        return screens + fits[: self.space.fits]
