"""Searchers: Optuna, or the study itself, chooses which trials are run. The one file that imports Optuna."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from harness.core.seeds import derive_seed, rng
from harness.core.stages import Trial
from harness.sweep.search_plan import Search

METRIC = "objective"
REPEATS = 100  # suggestions in a row that are known already, before one is drawn at random


SAMPLERS = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}


def searcher_for(search: Search, seed: int, at_once: Callable[[], int]) -> Searcher:
    """Returns what suggests the trials of `search`, to Tune or to the process itself."""
    return ChosenSearcher(search, at_once) if search.chooser else GridSearcher(search, seed, at_once)


class ChosenSearcher(Searcher):
    """Asks the study's chooser, which decides anew whenever a trial has ended."""

    def __init__(self, search: Search, at_once: Callable[[], int] = lambda: 1) -> None:
        """`at_once` says how many trials may be under way, asked anew each time."""
        super().__init__(metric=METRIC, mode="max")
        assert search.chooser is not None
        self._chooser, self._at_once = search.chooser, at_once
        self._keys = {trial.key for trial in search.candidates}
        self._known = dict(search.known)
        self._running: dict[str, str] = {}  # keys by Tune's name of the trial

    def suggest(self, trial_id: str) -> Any:
        """Returns {"key": a trial's key}; None while the next step waits for what is under way."""
        asked = self._chooser.next(self._known)
        while gone := [key for key in asked if key not in self._keys]:  # their stages could not be made
            self._known.update(dict.fromkeys(gone))
            asked = self._chooser.next(self._known)
        if not asked:
            return Searcher.FINISHED
        fresh = [key for key in asked if key not in self._running.values()]
        if not fresh or len(self._running) >= self._at_once():
            return None
        self._running[trial_id] = fresh[0]
        return {"key": fresh[0]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes how a trial did; one that failed, or is no number, is never asked for again."""
        value = None if error or not result else result.get(METRIC)
        failed = value is None or value != value
        self._known[self._running.pop(trial_id)] = None if failed else value

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: rows are what a search continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Needs nothing."""


class GridSearcher(Searcher):
    """Asks Optuna for settings until enough different ones have been run.

    Optuna repeats itself on a grid. A repeated suggestion is answered from what is known, now or as soon as the
    trial under way ends, and never runs again; that is also how a search continues where it stopped.
    """

    def __init__(self, search: Search, seed: int, at_once: Callable[[], int] = lambda: 1) -> None:
        """`at_once` says how many trials may be under way, asked anew each time: machines come and go."""
        super().__init__(metric=METRIC, mode="max")
        self._at_once = at_once
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._axes = search.axes
        self._by_axes = {self._place(trial.axes): trial for trial in search.candidates}
        self._known = dict(search.known)
        self._left = search.budget
        self._running: dict[str, Trial] = {}  # by Tune's name of the trial
        self._asked: dict[
            str, list[str]
        ] = {}  # names of Optuna's suggestions, by key, that wait for an answer
        self._count = 0
        self._draw = rng(seed, "search", search.study)
        space = {
            axis: CategoricalDistribution(
                list(dict.fromkeys(trial.axes[axis] for trial in search.candidates))
            )
            for axis in search.axes
        }
        sampler = SAMPLERS[search.name](seed=derive_seed(seed, "optuna", search.study) % 2**32)
        self._inner = OptunaSearch(space=space, metric=METRIC, mode="max", sampler=sampler)

    def _place(self, axes: Any) -> tuple[Any, ...]:
        return tuple(axes[axis] for axis in self._axes)

    def suggest(self, trial_id: str) -> Any:
        """Returns {"key": a trial's key} for a setting that is neither known nor under way."""
        if self._left <= 0:
            return Searcher.FINISHED
        if len(self._running) >= self._at_once():
            return None
        trial = self._ask()
        self._left -= 1
        self._running[trial_id] = trial
        return {"key": trial.key}

    def _ask(self) -> Trial:
        for _ in range(REPEATS):
            name = f"suggestion-{self._count}"
            self._count += 1
            trial = self._by_axes[self._place(self._inner.suggest(name))]
            if trial.key in self._known:
                self._answer(name, self._known[trial.key])
                continue
            under_way = trial.key in self._asked
            self._asked.setdefault(trial.key, []).append(name)
            if not under_way:
                return trial
        fresh = [
            one for one in self._by_axes.values() if one.key not in self._known and one.key not in self._asked
        ]
        trial = fresh[int(self._draw.integers(len(fresh)))]
        self._asked[trial.key] = []
        return trial

    def _answer(self, name: str, value: float | None) -> None:
        failed = value is None or value != value  # a NaN would leave Optuna waiting
        self._inner.on_trial_complete(
            name, None if failed else {METRIC: value, "training_iteration": 1}, failed
        )

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna how a setting did, as often as it asked for it."""
        trial = self._running.pop(trial_id)
        value = None if error or not result else result.get(METRIC)
        self._known[trial.key] = value
        for name in self._asked.pop(trial.key, []):
            self._answer(name, value)

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: rows are what a search continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Needs nothing."""
