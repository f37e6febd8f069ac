"""Does all work on a Ray cluster: stages as tasks, trials with Ray Tune."""

from harness.core.stages import Context
from harness.sweep.cluster import ProgressQueue
from harness.sweep.display import Display
from harness.sweep.local_executor import Record
from harness.sweep.prepare import StageTasks
from harness.sweep.schedule import Schedule
from harness.sweep.tuning import TuneRuns


class RayExecutor:
    """Runs on the connected cluster; has the same method as `harness.sweep.local_executor.LocalExecutor`."""

    def __init__(self, context: Context, display: Display) -> None:
        self._context, self._display, self._progress = context, display, ProgressQueue()
        context.say = self._progress

    def run(self, schedule: Schedule, record: Record) -> None:
        """Makes the stages of `schedule` and runs its trials; calls `record` with each outcome, in this thread.

        Stages are made whether or not Tune runs; Tune runs while there are trials.
        """
        stages = StageTasks(schedule, self._context, self._display, self._progress)
        trials = TuneRuns(schedule, stages, self._context, self._display, record)
        while not schedule.finished:
            if schedule.trials_ready:
                trials.run()
            else:
                stages.wait()
