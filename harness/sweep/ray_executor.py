"""Does the work on a Ray cluster: stages as tasks, trials on Ray Tune."""

from collections.abc import Sequence
from typing import Any

from harness.core.stages import Context, Stage, Trial
from harness.sweep.cluster import ProgressQueue, capacity
from harness.sweep.display import Display
from harness.sweep.local_executor import Record
from harness.sweep.prepare import make_on_ray
from harness.sweep.tuning import run_trials


class RayExecutor:
    """All executor of the connected cluster; the same methods as `harness.sweep.local_executor.Here`."""

    def __init__(self, context: Context, display: Display) -> None:
        self._context, self._display, self._progress = context, display, ProgressQueue()
        context.say = self._progress

    def make(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Makes stages, each as soon as it can be. Returns tracebacks by `Stage.job` of those that failed."""
        return make_on_ray(stages, self._context, self._display, self._progress)

    @staticmethod
    def at_once() -> int:
        """Returns how many trials may be under way: twice the slots, since an actor is kept only if the next trial
        is known when the one before it ends.

        Tune pickles the searcher, which holds this; a method would bring the display along.
        """
        return 2 * capacity().slots

    def run(self, trials: Sequence[Trial], record: Record, searcher: Any = None, samples: int = 1) -> None:
        """Runs all of `trials`, or the `samples` that `searcher` asks for, and calls `record` with outcomes."""
        run_trials(trials, self._context, record, self._display, self._progress, searcher, samples)
