"""What can be done next: trials whose stages exist, and stages in the order in which they let trials start.

Stages are ordered depth-first: all that the first trial needs, then what the second needs in addition, and so on. A
trial can start as soon as the stages that it reads exist, a search as soon as those exist that must not be made
within its trials.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from harness.core.errors import BadData
from harness.core.stages import Stage, Trial
from harness.sweep.search_plan import Search


@dataclass
class _Waiting:
    """Something that waits for stages."""

    jobs: set[str]  # of stages that are neither made nor failed
    start: Callable[[], None]  # called when there are none left
    fail: Callable[[str], None] | None = (
        None  # called with the error of the first that fails; None: it starts anyway
    )


class Schedule:
    """Tells an executor what to do next, and is told what became of it. Not for use by several threads."""

    def __init__(
        self,
        trials: Sequence[Trial],
        stages: Sequence[Stage],
        searches: Sequence[Search] = (),
        *,
        searcher: Callable[[Search], Any] | None = None,
        unable: Callable[[Trial, str], None],
    ) -> None:
        """Plans to run `trials`, and those that the searchers of `searches` suggest.

        `stages` are those to make, each after the stages that it needs. `searcher` returns a search's searcher when
        the search begins. `unable` is called at once with each trial that needs a failed stage, and the error.
        """
        self.trials = {trial.key: trial for trial in trials}
        self.running = 0  # trials that were handed out and have not ended
        self.refused: list[str] = []  # what is wrong with the user's data
        self._stages = list(stages)
        self._place = {stage.job: place for place, stage in enumerate(stages)}
        self._open = set(self._place)  # jobs of stages that are neither made nor failed
        self._waiting: dict[str, list[_Waiting]] = {}  # by job
        self._startable_stages: list[int] = []  # a heap of places in `stages`
        self._startable_trials: list[int] = []  # a heap of places in `trials`
        self._searcher, self._unable = searcher, unable
        self._searches: dict[int, Any] = {}  # searchers at work, by place
        self._asked: dict[str, tuple[Any, str]] = {}  # searcher and name of a running suggestion, by key
        self._names = map(str, count())
        self._order = list(trials)
        for place, stage in enumerate(stages):
            needs = {need.job for need in stage.before} & self._open
            self._wait(
                needs, partial(heappush, self._startable_stages, place), partial(self._resolve, stage.job)
            )
        for place, trial in enumerate(trials):
            start = partial(heappush, self._startable_trials, place)
            self._wait(self._needed(trial), start, partial(unable, trial))
        for place, search in enumerate(searches):
            self._add_search(place, search)

    def _needed(self, trial: Trial) -> set[str]:
        return {stage.job for stage in trial.stages} & self._open

    def _wait(
        self, jobs: set[str], start: Callable[[], None], fail: Callable[[str], None] | None = None
    ) -> None:
        if not jobs:
            start()
            return
        waiting = _Waiting(jobs, start, fail)
        for job in jobs:
            self._waiting.setdefault(job, []).append(waiting)

    def _add_search(self, place: int, search: Search) -> None:
        """Adds a search, which loses the candidates whose stages fail."""
        gone: set[str] = set()
        self.trials |= {trial.key: trial for trial in search.candidates}

        def lose(trial: Trial, error: str) -> None:
            gone.add(trial.key)
            self._unable(trial, error)

        def begin() -> None:
            fresh = [one for one in search.candidates if one.key not in search.known and one.key not in gone]
            known = [one for one in search.candidates if one.key in search.known]
            if fresh:
                assert self._searcher is not None
                budget = min(search.budget, len(fresh))
                self._searches[place] = self._searcher(
                    search._replace(candidates=known + fresh, budget=budget)
                )

        for trial in search.candidates:
            if trial.key not in search.known:
                self._wait(self._needed(trial), lambda: None, partial(lose, trial))
        self._wait(self._below(search.candidates), begin)

    def _below(self, trials: Sequence[Trial]) -> set[str]:
        """Returns the jobs of stages to make that `trials` need, directly or through others."""
        found: set[str] = set()
        seen: set[str] = set()
        stack = [stage for trial in trials for stage in trial.stages]
        while stack:
            stage = stack.pop()
            if stage.key not in seen:
                seen.add(stage.key)
                found.add(stage.job)
                stack += stage.before
        return found & self._open

    def refuse(self, stage: Stage, error: BadData) -> None:
        """Notes that a stage found the user's data to be bad: nothing more is done, except for stages of this kind.

        They may find more, so that all is said at once.
        """
        self.refused += error.faults
        self._open = {job for job in self._open if self._stages[self._place[job]].kind == stage.kind} - {
            stage.job
        }
        self._startable_stages = [
            place for place in self._startable_stages if self._stages[place].kind == stage.kind
        ]
        heapify(self._startable_stages)
        self._startable_trials.clear()
        self._searches.clear()
        self._waiting.clear()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do or running."""
        return not (self._open or self.running or self.trials_ready)

    @property
    def trials_ready(self) -> bool:
        """Whether `next_trial` may return one, now or when a running trial ends."""
        return bool(self._startable_trials or self._searches)

    @property
    def stages_ready(self) -> int:
        """How many stages `next_stage` can return one after the other."""
        return len(self._startable_stages)

    def next_stage(self) -> Stage | None:
        """Returns the first stage whose needs exist, and does not return it again; None if there is none now."""
        return self._stages[heappop(self._startable_stages)] if self._startable_stages else None

    def again(self, stage: Stage) -> None:
        """Returns a stage that was neither made nor failed: it will be the next one."""
        heappush(self._startable_stages, self._place[stage.job])

    def made(self, stage: Stage) -> None:
        """Notes that a stage exists."""
        self._resolve(stage.job, None)

    def failed(self, stage: Stage, error: str) -> int:
        """Notes that a stage failed, and with it all that needs it. Returns how many stages that are."""
        before = len(self._open)
        self._resolve(stage.job, error)
        return before - len(self._open)

    def _resolve(self, job: str, error: str | None) -> None:
        self._open.discard(job)
        for waiting in self._waiting.pop(job, []):
            if job not in waiting.jobs:
                continue  # it has failed
            waiting.jobs.discard(job)
            if error is not None and waiting.fail is not None:
                waiting.jobs.clear()
                waiting.fail(error)
            elif not waiting.jobs:
                waiting.start()

    def next_trial(self) -> Trial | None:
        """Returns the first trial whose stages exist, or one that a search suggests; None if there is none now."""
        trial = (
            self._order[heappop(self._startable_trials)]
            if self._startable_trials
            else next(self._suggested(), None)
        )
        self.running += trial is not None
        return trial

    def _suggested(self) -> Iterator[Trial]:
        for place, searcher in sorted(self._searches.items()):
            name = next(self._names)
            found = searcher.suggest(name)
            if isinstance(found, Mapping):
                self._asked[found["key"]] = (searcher, name)
                yield self.trials[found["key"]]
            elif found is not None:  # it has finished
                del self._searches[place]

    def ended(self, trial: Trial, objective: float | None) -> None:
        """Notes that a trial has ended, and its objective, None if it failed."""
        self.running -= 1
        searcher, name = self._asked.pop(trial.key, (None, ""))
        if searcher is not None:
            searcher.on_trial_complete(name, {"objective": objective})
