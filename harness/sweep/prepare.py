"""Makes stages as Ray tasks: all ready ones are submitted at once, so that machines that join find work."""

import time
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray

from harness.core.errors import FullDisk
from harness.core.stages import Context, Stage
from harness.sweep.cluster import CRASHES, LOSSES, ProgressQueue, beside_driver, capacity
from harness.sweep.display import Display
from harness.sweep.local_executor import LocalExecutor, inherited, made

SECONDS_BETWEEN_LOOKS = 0.5
IN_FLIGHT = 2000  # tasks submitted to Ray at a time; an autoscaler sees the pending ones


def make_on_ray(
    stages: Sequence[Stage], context: Context, display: Display, progress: ProgressQueue
) -> dict[str, str]:
    """Makes stages as Ray tasks, each as soon as the stages it needs exist. Returns tracebacks by job.

    Raises `FullDisk`.
    """
    errors = LocalExecutor(context, display).make([stage for stage in stages if stage.local])
    waiting = [stage for stage in stages if not stage.local]
    open_jobs = {stage.job for stage in waiting}
    shared = ray.put(context)
    lost: Counter[tuple[str, bool]] = Counter()  # by job, and by whether its machine was lost
    running: dict[Any, tuple[Stage, float]] = {}
    while waiting or running:
        for stage in list(waiting):
            error = inherited(stage, errors)
            if error is not None:
                errors[stage.job] = error
                open_jobs.discard(stage.job)
            elif any(need.job in open_jobs for need in stage.before) or len(running) >= IN_FLIGHT:
                continue
            else:
                running[_submit(stage, context, shared)] = (stage, time.monotonic())
            waiting.remove(stage)
        ready = _ended(list(running))
        for update in progress.take():
            display.working(*update)
        for reference in ready:
            stage, began = running.pop(reference)
            try:
                error = ray.get(reference)
            except ray.exceptions.RayError as failure:
                machine = isinstance(failure, ray.exceptions.NodeDiedError)
                lost[stage.job, machine] += 1
                if lost[stage.job, machine] <= (LOSSES if machine else CRASHES):
                    what = "its machine was lost" if machine else "its process died"
                    display.say(f"{stage.short_name}: {what}; retrying")
                    waiting.insert(0, stage)
                    continue
                error = f"{type(failure).__name__}: {failure}"
            if isinstance(error, FullDisk):
                raise error
            open_jobs.discard(stage.job)
            if error is None:
                display.stage_made(stage.kind, stage.key, time.monotonic() - began)
            else:
                errors[stage.job] = error
                display.stage_failed(stage.kind, stage.key, error)
    return errors


def _ended(running: list[Any]) -> list[Any]:
    """Waits briefly for a task to end, and returns all that have ended."""
    if not running or not ray.wait(running, timeout=SECONDS_BETWEEN_LOOKS)[0]:
        return []
    return ray.wait(running, num_returns=len(running), timeout=0)[0]


def _submit(stage: Stage, context: Context, shared: Any) -> Any:
    """Submits a task for `stage`. One that only waits for Ray Train's workers takes no CPU from them."""
    if stage.trains:
        # If the machine of a Train controller is lost, its placement group stays and blocks the next controller.
        place: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": beside_driver()}
    else:
        place = {"num_cpus": 1, "num_gpus": float(context.accelerators and capacity().gpus > 0)}
    return _make.options(name=stage.short_name, max_retries=0, **place).remote(stage, shared)


@ray.remote
def _make(stage: Stage, context: Context) -> str | FullDisk | None:
    """Makes one stage; returns the error if it fails, so that only lost processes are retried."""
    try:
        context.store.storage.check_seen()
        return made(stage, context)
    except FullDisk as error:
        return error
    except Exception:
        return traceback.format_exc()
