"""Does all work on a Ray cluster: stages as tasks, trials with Ray Tune."""

from collections.abc import Sequence
from typing import Any

from harness.core.stages import Context, Stage, Trial
from harness.sweep.cluster import ProgressQueue, capacity
from harness.sweep.display import Display
from harness.sweep.local_executor import Record
from harness.sweep.prepare import make_on_ray
from harness.sweep.tuning import run_trials


class RayExecutor:
    """Runs on the connected cluster; has the same methods as `harness.sweep.local_executor.LocalExecutor`."""

    def __init__(self, context: Context, display: Display) -> None:
        self._context, self._display, self._progress = context, display, ProgressQueue()
        context.say = self._progress

    def make(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Makes stages, each as early as possible. Returns the tracebacks of failed ones by `Stage.job`."""
        return make_on_ray(stages, self._context, self._display, self._progress)

    @staticmethod
    def at_once() -> int:
        """Returns how many trials may run or wait: twice the slots, since an actor is reused only if the next trial
        is known when the previous one ends.

        Tune pickles the searcher, which holds this function; a bound method would include the display.
        """
        return 2 * capacity().slots

    def run(self, trials: Sequence[Trial], record: Record, searcher: Any = None, samples: int = 1) -> None:
        """Runs all of `trials`, or `samples` that `searcher` suggests, and calls `record` with each outcome."""
        run_trials(trials, self._context, record, self._display, self._progress, searcher, samples)
