"""How `search: auto` chooses block, timestep, pool and head: what to evaluate next, given what is known. Pure.

Three methods share a budget of head fits, in which a screening probe, which is a ridge head on some of the images,
counts as one: `screening`, ours; `frequency` (A-SelecT) and `local` (Diff-Feat), to compare with.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, islice
from math import inf, log2
from typing import NamedTuple

SHARE = 1 / 10  # of the grid's head fits: the budget, unless the grid is small
SCREENED = (
    1 / 2,
    2 / 3,
)  # shares of the budget for screening probes: of a sufficient one, and of a small one at most
SCREEN_SHARE = 0.15  # of the images of a full pass, for the screening of one timestep


class Candidate(NamedTuple):
    """A setting to evaluate: with a head, or by a screening probe if `head` is None.

    Without a block it is the high-frequency ratio of a timestep, which takes no fit.
    """

    timestep: int
    block: int | None
    pool: int | None
    head: str | None


class SearchSpace(NamedTuple):
    """What to choose from: every combination of timestep, block, pool and head."""

    timesteps: tuple[int, ...]  # ascending
    blocks: tuple[int, ...]  # ascending
    pools: tuple[int, ...]  # ascending
    heads: tuple[str, ...]
    budget: int  # largest number of head fits and screening probes together

    @property
    def grid(self) -> int:
        """The number of fits of the whole grid."""
        return len(self.timesteps) * len(self.blocks) * len(self.pools) * len(self.heads)


Known = Mapping[Candidate, float | None]  # validation accuracy, or high-frequency ratio; None if it failed


def budget_of(timesteps: int, blocks: int, pools: int, heads: int, trials: int) -> int:
    """Returns the largest number of fits and screening probes: a tenth of the grid, never above `trials`.

    For a small grid it is what `screening` needs: two for each timestep that it looks at, one for each block and
    pool, two for each head.
    """
    grid, needed = (
        timesteps * blocks * pools * heads,
        2 * most_screened(timesteps) + blocks + pools + 2 * heads,
    )
    return min(grid, trials, max(int(grid * SHARE), needed))


def rounds(timesteps: int) -> int:
    """Returns how many times the spacing of screened timesteps is halved after the first three."""
    return max(1, int(log2((timesteps + 1) / 4)))


def most_screened(timesteps: int) -> int:
    """Returns the largest number of screened timesteps: three, plus two per round."""
    return min(timesteps, 3 + 2 * rounds(timesteps))


def most_screens(space: SearchSpace) -> int:
    """Returns the largest number of screening probes, so that at least a third of the budget, and one fit, is left.

    It is half of the budget, or as many as screen every timestep and two more blocks.
    """
    wanted = max(int(SCREENED[0] * space.budget), most_screened(len(space.timesteps)) + 2)
    return max(0, min(wanted, int(SCREENED[1] * space.budget), space.budget - 1))


def profiled(space: SearchSpace) -> int:
    """Returns how many blocks are screened at every screened timestep: two if probes of four others are left."""
    return 2 if 2 * most_screened(len(space.timesteps)) + 4 <= most_screens(space) else 1


def full_passes(timesteps: int) -> int:
    """Returns at how many timesteps `screening` passes all images at most: half of them, and one."""
    return min(timesteps, timesteps // 2 + 1)


class Missing(Exception):
    """A method has to know these candidates before it can go on."""

    def __init__(self, candidates: list[Candidate]) -> None:
        super().__init__(candidates)
        self.candidates = candidates


class Spent(Exception):
    """The budget is spent."""


class Evaluated:
    """The candidates that a method has asked for, with their values, within its budget."""

    def __init__(self, space: SearchSpace, known: Known) -> None:
        self.space, self._known = space, known
        self.values: dict[Candidate, float] = {}  # -inf for failures
        self.left = space.budget

    def of(self, candidates: Iterable[Candidate]) -> dict[Candidate, float]:
        """Returns the values of candidates, -inf for those that failed.

        Raises `Missing` with those that are not known, and `Spent` if the budget does not allow all, once those that
        it allows are known.
        """
        asked = list(dict.fromkeys(candidates))
        fresh = [one for one in asked if one not in self.values]
        allowed = [one for one in fresh if one.block is None]
        allowed += [one for one in fresh if one.block is not None][: self.left]
        if missing := [one for one in allowed if one not in self._known]:
            raise Missing(missing)
        for one in allowed:
            value = self._known[one]
            self.values[one] = -inf if value is None else value
            self.left -= one.block is not None
        if len(allowed) < len(fresh):
            raise Spent
        return {one: self.values[one] for one in asked}

    def best(self, candidates: Iterable[Candidate]) -> Candidate:
        """Returns the best of some candidates, the first if several are equal."""
        values = self.of(candidates)
        return max(values, key=values.__getitem__)


class Method(NamedTuple):
    """A way to choose: `run` evaluates until it is done; the others bound at how many timesteps it does what."""

    run: Callable[[SearchSpace, Evaluated], None]
    measured: Callable[[SearchSpace], int]  # timesteps whose high-frequency ratio is measured
    screened: Callable[[SearchSpace], int]  # by probes, on some of the images
    passed: Callable[[SearchSpace], int]  # with all images


def next_candidates(method: Method, space: SearchSpace, known: Known) -> list[Candidate]:
    """Returns what to evaluate next; nothing when the search is done.

    Depends on `known` alone, so a search resumes after any interruption; candidates still running are returned again.
    """
    try:
        method.run(space, Evaluated(space, known))
    except Missing as missing:
        return missing.candidates
    except Spent:
        pass
    return []


class Chooser:
    """Maps candidates to trials, for the search of this study."""

    def __init__(self, method: Method, space: SearchSpace, keys: Mapping[Candidate, str]) -> None:
        """`keys` are the keys of the trials of all candidates that the method may ask for."""
        self.method, self.space, self._keys = method, space, keys

    def next(self, known: Mapping[str, float | None]) -> list[str]:
        """Returns the keys of trials to run now; nothing when the search is done.

        `known` are objectives by key, None for failures. Called whenever a trial has ended; trials still running are
        returned again.
        """
        found = {candidate: known[key] for candidate, key in self._keys.items() if key in known}
        return [self._keys[candidate] for candidate in next_candidates(self.method, self.space, found)]

    def longest(self) -> list[str]:
        """Returns the keys of a largest possible search, by trials and by passes."""
        space, method = self.space, self.method
        measured = [Candidate(one, None, None, None) for one in space.timesteps[: method.measured(space)]]
        screens = self._spread(method.screened(space), (None,), most_screens(space))
        fits = self._spread(method.passed(space), space.heads, space.budget - len(screens))
        return [self._keys[candidate] for candidate in (*measured, *screens, *fits)]

    def _spread(self, timesteps: int, heads: Sequence[str | None], most: int) -> list[Candidate]:
        """Returns at most so many candidates, in turn of so many timesteps."""
        space = self.space
        settings = [(block, pool, head) for head in heads for block in space.blocks for pool in space.pools]
        by_timestep = [
            iter([Candidate(one, *setting) for setting in settings]) for one in space.timesteps[:timesteps]
        ]
        total = min(most, len(settings) * len(by_timestep))
        return list(islice((next(one) for one in cycle(by_timestep)), total))
