"""Runs trials with Ray Tune, on reused actors that cache what they have read."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.search import Searcher

from harness.core.rows import Outcome
from harness.core.stages import Context, Trial, failure, objective, run
from harness.sweep.cluster import CRASHES, ProgressQueue, capacity
from harness.sweep.display import Display, describe
from harness.sweep.local_executor import Record

GPU_SHARE = 0.25  # of a GPU per trial: trials are small


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


class _Recorder(tune.Callback):
    """Records outcomes as they arrive."""

    def __init__(
        self,
        trials: Mapping[str, Trial],
        context: Context,
        record: Record,
        display: Display,
        progress: ProgressQueue,
    ) -> None:
        self._trials, self._context, self._record = trials, context, record
        self._display, self._progress = display, progress
        self._running: set[str] = set()  # asking all trials at each step would take quadratic time

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its state, which is never read: the journal records rows."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._display.running(len(self._running))
        if iteration % 20 == 0:
            for update in self._progress.take():
                self._display.working(*update)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        self._keep(Outcome.from_json(trial.last_result.pop("outcome")))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        axes = describe(self._trials[trial.config["key"]].axes)
        self._display.say(f"{axes}: its machine was lost or its process died; retrying")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        reason = str(trial.get_error() or "the trial's process died")
        self._keep(failure(self._trials[trial.config["key"]], self._context.provenance, reason))

    def _keep(self, outcome: Outcome) -> None:
        try:
            self._record(outcome)
        except Exception as error:  # Tune would treat it as an error of the trial
            raise _CannotRecord(error) from error


class _CannotRecord(BaseException):
    """Rows cannot be recorded, so the sweep must stop. Not an `Exception`, which Tune would catch."""


@contextmanager
def _memory_is_an_error_of_the_actor() -> Iterator[None]:
    """Makes Tune retry a trial whose actor Ray killed for lack of memory: Tune 2.60 aborts the whole run."""
    handle = RayActorManager._actor_task_failed

    def failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):  # the rest of its message lists all processes
            exception = RayActorError(error_msg=str(exception).splitlines()[0])
        handle(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = handle


def run_trials(
    trials: Sequence[Trial],
    context: Context,
    record: Record,
    display: Display,
    progress: ProgressQueue,
    searcher: Searcher | None = None,
    samples: int = 1,
) -> None:
    """Runs `trials`, all or those that `searcher` suggests, and calls `record` with each outcome."""
    if not trials:
        return
    by_key = {trial.key: trial for trial in trials}
    resources = {"cpu": 1, "gpu": GPU_SHARE if context.accelerators and capacity().gpus > 0 else 0}
    trainable = tune.with_resources(tune.with_parameters(_Actor, trials=by_key, context=context), resources)
    with tempfile.TemporaryDirectory(prefix="harness-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            param_space={} if searcher else {"key": tune.grid_search(list(by_key))},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=samples,
                reuse_actors=True,  # works only while trials are pending, so only CPUs limit concurrency
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                # a trial that is interrupted is run again from the start
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=CRASHES),
                callbacks=[_Recorder(by_key, context, record, display, progress)],
            ),
        )
        try:
            with _memory_is_an_error_of_the_actor():
                tuner.fit()
        except _CannotRecord as stopped:
            raise stopped.args[0] from None
