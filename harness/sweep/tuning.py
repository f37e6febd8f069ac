"""Runs trials with Ray Tune, on reused actors that cache what they have read."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.search import Searcher, SearchGenerator

from harness.core.rows import Outcome
from harness.core.stages import TRIAL_GPU, Context, Trial, failure, objective, run
from harness.sweep.cluster import CRASHES, capacity
from harness.sweep.display import Display, describe
from harness.sweep.local_executor import Record
from harness.sweep.prepare import StageTasks
from harness.sweep.schedule import Schedule
from harness.sweep.searchers import METRIC


class _Actor(tune.Trainable):
    """Runs one trial after the other in one process."""

    def setup(self, config: dict[str, Any], trials: Mapping[str, Trial], context: Context) -> None:
        self._trials, self._context = trials, context
        self._key = config["key"]
        context.store.storage.check_seen()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._key = new_config["key"]
        return True

    def step(self) -> dict[str, Any]:
        from harness.training.device import describe_device, pick_device

        trial = self._trials[self._key]
        device = describe_device(pick_device(self._context))
        outcome = run(trial, self._context, device)
        return {"outcome": outcome.to_json(), "objective": objective(trial, outcome), "done": True}


class ReadyTrials(Searcher):
    """Hands out the trials of a schedule, each when its stages exist."""

    def __init__(self, schedule: Schedule, most: Callable[[], int]) -> None:
        """`most` returns how many trials Ray may have; it is called each time, since machines come and go."""
        super().__init__(metric=METRIC, mode="max")
        self.schedule = schedule
        self._most = most
        self._handed: dict[str, Trial] = {}  # by Tune's trial id

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers; what it saves is never read."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, str] | None:
        """Returns {"key": a trial's key}; None while no trial is ready, or while there is no room for one."""
        if self.schedule.running >= self._most():
            return None
        trial = self.schedule.next_trial()
        if trial is None:
            return None
        self._handed[trial_id] = trial
        return {"key": trial.key}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the schedule that a trial has ended, and its objective."""
        self.schedule.ended(self._handed.pop(trial_id), None if error or not result else result.get(METRIC))

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a sweep resumes from rows."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class _WhileReady(SearchGenerator):
    """Lets Tune end the processes of trials while no trial is ready, since stages need their CPUs.

    If the last of them has ended, so does Tune; it is started again for the next trial.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def is_finished(self) -> bool:
        return not self.searcher.schedule.trials_ready


class _Recorder(tune.Callback):
    """Records outcomes as they arrive, and has stages made between them."""

    def __init__(
        self, schedule: Schedule, stages: StageTasks, context: Context, display: Display, record: Record
    ) -> None:
        self._schedule, self._stages, self._context = schedule, stages, context
        self._display, self._record = display, record
        self._running: set[str] = set()  # asking all trials at each step would take quadratic time

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its state, which is never read: the journal records rows."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._display.running(len(self._running))
        with _not_of_a_trial():
            self._stages.step(hold=self._schedule.running > len(self._running))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        self._keep(Outcome.from_json(trial.last_result.pop("outcome")))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        axes = describe(self._schedule.trials[trial.config["key"]].axes)
        self._display.say(f"{axes}: its machine was lost or its process died; retrying")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        reason = str(trial.get_error() or "the trial's process died")
        self._keep(failure(self._schedule.trials[trial.config["key"]], self._context.provenance, reason))

    def _keep(self, outcome: Outcome) -> None:
        with _not_of_a_trial():
            self._record(outcome)


class _MustStop(BaseException):
    """The sweep must stop: rows cannot be recorded, the disk is full. Not an `Exception`, which Tune would catch."""


@contextmanager
def _not_of_a_trial() -> Iterator[None]:
    """Keeps Tune from treating an error as that of a trial."""
    try:
        yield
    except Exception as error:
        raise _MustStop(error) from error


@contextmanager
def _repaired() -> Iterator[None]:
    """Changes two things in Tune 2.60.

    It would abort the whole run if Ray kills an actor for lack of memory, which now counts as an error of the actor.
    And it would give a trial whose process is starting to one that has ended, and stop the former: with short trials
    there would never be a second process.
    """
    handle, reuse = RayActorManager._actor_task_failed, TuneController._maybe_reuse_cached_actor

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):  # the rest of its message lists all processes
            exception = RayActorError(error_msg=str(exception).splitlines()[0])
        handle(manager, tracked_actor_task, exception)

    def reused(controller: Any, trial: Any) -> bool:
        own = controller._trial_to_actor.get(trial)
        starting = own is not None and controller._actor_manager.is_actor_started(own)
        return False if starting and trial not in controller._resetting_trials else reuse(controller, trial)

    RayActorManager._actor_task_failed, TuneController._maybe_reuse_cached_actor = failed, reused
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, TuneController._maybe_reuse_cached_actor = handle, reuse


class TuneRuns:
    """Runs the trials of a schedule, in one run of Tune after the other."""

    def __init__(
        self, schedule: Schedule, stages: StageTasks, context: Context, display: Display, record: Record
    ) -> None:
        self._schedule, self._stages, self._context = schedule, stages, context
        self._display, self._record = display, record
        self._trainable = tune.with_parameters(_Actor, trials=schedule.trials, context=context)

    def run(self) -> None:
        """Runs trials until none is ready, and has stages made meanwhile; records each outcome.

        Raises `FullDisk`, and what recording raises.
        """
        schedule, stages = self._schedule, self._stages
        gpus = TRIAL_GPU if self._context.accelerators and capacity().gpus > 0 else 0
        with tempfile.TemporaryDirectory(prefix="harness-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(self._trainable, {"cpu": 1, "gpu": gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=_WhileReady(ReadyTrials(schedule, lambda: stages.room.trials)),
                    num_samples=-1,  # until the searcher has no more
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=scratch,
                    verbose=0,
                    # a trial that is interrupted is run again from the start
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(max_failures=CRASHES),
                    callbacks=[_Recorder(schedule, stages, self._context, self._display, self._record)],
                ),
            )
            try:
                with _repaired():
                    tuner.fit()
            except _MustStop as stopped:
                raise stopped.args[0] from None
        self._display.running(0)
