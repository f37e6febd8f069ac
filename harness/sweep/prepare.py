"""Makes stages as Ray tasks, as many at a time as the cluster has room for."""

import time
import traceback
from collections.abc import Sequence
from typing import Any

import ray

from harness.core.stages import Stage, Workshop
from harness.sweep.cluster import CRASHES, Board, gpus, slots
from harness.sweep.display import Display
from harness.sweep.here import Here, inherited

SECONDS_BETWEEN_LOOKS = 0.5


def make_on_ray(
    stages: Sequence[Stage], workshop: Workshop, display: Display, board: Board
) -> dict[str, str]:
    """Makes stages as Ray tasks, each as soon as those that it needs are there. Returns tracebacks by job."""
    errors = Here(workshop, display).make([stage for stage in stages if stage.here])
    waiting = [stage for stage in stages if not stage.here]
    open_jobs = {stage.job for stage in waiting}
    room = slots()
    running: dict[Any, tuple[Stage, float]] = {}
    while waiting or running:
        for stage in list(waiting):
            error = inherited(stage, errors)
            if error is not None:
                errors[stage.job] = error
                open_jobs.discard(stage.job)
            elif any(need.job in open_jobs for need in stage.needs.values()):
                continue
            elif not stage.trains and sum(not other.trains for other, _ in running.values()) >= room:
                continue  # no room; stages that train wait for room in Ray Train
            else:
                running[_submit(stage, workshop)] = (stage, time.monotonic())
            waiting.remove(stage)
        ready, _ = ray.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS) if running else ([], [])
        for line in board.take():
            display.working(*line)
        for reference in ready:
            stage, began = running.pop(reference)
            open_jobs.discard(stage.job)
            error = _error_of(reference)
            if error is None:
                display.stage_made(stage.kind, stage.key, time.monotonic() - began)
            else:
                errors[stage.job] = error
                display.stage_failed(stage.kind, stage.key, error)
    return errors


def _submit(stage: Stage, workshop: Workshop) -> Any:
    """Starts a task for `stage`. One that only waits for Ray Train's workers takes no CPU from them."""
    has_gpu = workshop.accelerators and gpus() > 0
    resources: dict[str, float] = (
        {"num_cpus": 0} if stage.trains else {"num_cpus": 1, "num_gpus": float(has_gpu)}
    )
    name = f"{stage.kind} {stage.key[:6]}"
    return _make.options(name=name, max_retries=CRASHES, **resources).remote(stage, workshop)


@ray.remote
def _make(stage: Stage, workshop: Workshop) -> str | None:
    """Makes one stage; returns the traceback if it fails, so that only lost processes are tried again."""
    try:
        workshop.ensure(stage)
    except Exception:
        return traceback.format_exc()
    return None


def _error_of(reference: Any) -> str | None:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {error}"
