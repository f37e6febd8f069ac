"""Searchers: Optuna or the study itself chooses which trials to run. Only this file of `sweep` imports Optuna."""

from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from harness.core.seeds import derive_seed, rng
from harness.core.stages import Trial
from harness.sweep.search_plan import Search

METRIC = "objective"
REPEATS = 100  # known suggestions in a row before a setting is drawn at random


SAMPLERS = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}


def searcher_for(search: Search, seed: int) -> Searcher:
    """Returns the searcher that suggests trials of `search`."""
    return ChosenSearcher(search) if search.chooser else GridSearcher(search, seed)


class ChosenSearcher(Searcher):
    """Asks the study's chooser, which decides again whenever a trial ends."""

    def __init__(self, search: Search) -> None:
        super().__init__(metric=METRIC, mode="max")
        assert search.chooser is not None
        self._chooser = search.chooser
        self._keys = {trial.key for trial in search.candidates}
        self._known = dict(search.known)
        self._running: dict[str, str] = {}  # keys by the name of the suggestion

    def suggest(self, trial_id: str) -> Any:
        """Returns {"key": a trial's key}; None while the next step has to wait for running trials."""
        asked = self._chooser.next(self._known)
        while gone := [key for key in asked if key not in self._keys]:  # their stages could not be made
            self._known.update(dict.fromkeys(gone))
            asked = self._chooser.next(self._known)
        if not asked:
            return Searcher.FINISHED
        fresh = [key for key in asked if key not in self._running.values()]
        if not fresh:
            return None
        self._running[trial_id] = fresh[0]
        return {"key": fresh[0]}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Records the result of a trial; one that failed or is NaN is never suggested again."""
        value = None if error or not result else result.get(METRIC)
        failed = value is None or value != value
        self._known[self._running.pop(trial_id)] = None if failed else value

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a search resumes from rows."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class GridSearcher(Searcher):
    """Asks Optuna for settings until enough different ones have been run.

    Optuna repeats itself on a grid. A repeated suggestion is answered from known results, at once or when the running
    trial ends, and never runs again; this is also how an interrupted search resumes.
    """

    def __init__(self, search: Search, seed: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._axes = search.axes
        self._by_axes = {self._place(trial.axes): trial for trial in search.candidates}
        self._known = dict(search.known)
        self._left = search.budget
        self._running: dict[str, Trial] = {}  # by the name of the suggestion
        self._asked: dict[str, list[str]] = {}  # names of Optuna's unanswered suggestions, by key
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
        """Returns {"key": a trial's key} for a setting that is neither known nor running."""
        if self._left <= 0:
            return Searcher.FINISHED
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
        failed = value is None or value != value  # with a NaN, Optuna would wait forever
        self._inner.on_trial_complete(
            name, None if failed else {METRIC: value, "training_iteration": 1}, failed
        )

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Reports a setting's result to Optuna, as often as it suggested the setting."""
        trial = self._running.pop(trial_id)
        value = None if error or not result else result.get(METRIC)
        self._known[trial.key] = value
        for name in self._asked.pop(trial.key, []):
            self._answer(name, value)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a search resumes from rows."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""
