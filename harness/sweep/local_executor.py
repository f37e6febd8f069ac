"""Does all work in this process, for `--debug`."""

import errno
import os
import time
import traceback
from collections.abc import Callable

from harness.core.errors import BadData, FullDisk, full_disk_explained
from harness.core.rows import Outcome
from harness.core.stages import Context, Stage, objective, run
from harness.sweep.display import Display
from harness.sweep.schedule import Schedule

FULL = (errno.ENOSPC, errno.EDQUOT)
Record = Callable[[Outcome], None]


class LocalExecutor:
    """Makes stages and runs trials one after the other; `harness.sweep.ray_executor` does so in parallel."""

    def __init__(self, context: Context, display: Display) -> None:
        self._context, self._display = context, display

    def run(self, schedule: Schedule, record: Record) -> None:
        """Makes the stages of `schedule` and runs its trials; calls `record` with each outcome.

        What can run runs before another stage is made, so that results come early and an interrupt loses little.
        """
        from harness.training.device import describe_device, pick_device

        device = describe_device(pick_device(self._context))
        while True:
            if (trial := schedule.next_trial()) is not None:
                self._display.running(1)
                outcome = run(trial, self._context, device)
                self._display.running(0)
                record(outcome)
                schedule.ended(trial, objective(trial, outcome))
            elif (stage := schedule.next_stage()) is not None:
                note(stage, made(stage, self._context), schedule, self._display)
            else:
                return


def note(stage: Stage, result: float | str | BadData, schedule: Schedule, display: Display) -> None:
    """Tells `schedule` and `display` what became of a stage: `result` is what `made` returned."""
    if isinstance(result, BadData):
        schedule.refuse(stage, result)
    elif isinstance(result, str):
        display.stage_failed(stage.kind, stage.key, result)
        display.given_up(schedule.failed(stage, result))
    else:
        display.stage_made(stage.kind, stage.key, result)
        schedule.made(stage)


def made(stage: Stage, context: Context) -> float | str | BadData:
    """Makes a stage and returns the seconds that it took, or why it failed: a traceback, or what is wrong with data.

    Raises `FullDisk` if all stages would fail likewise.
    """
    began = time.monotonic()
    try:
        context.ensure(stage)
    except BadData as error:
        return error
    except Exception as error:
        storage = context.store.storage
        if storage.local is not None:  # with an object store, only one machine's disk is full
            with full_disk_explained(storage.describe()):
                for code in FULL:  # libraries raise their own errors with this text
                    if os.strerror(code) in str(error):
                        raise OSError(code, os.strerror(code)) from error
        return traceback.format_exc()
    return time.monotonic() - began


def made_on_worker(stage: Stage, context: Context) -> float | str | BadData | FullDisk:
    """Does what `made` does, on any machine; every error is returned, so that only lost processes are retried."""
    try:
        context.store.storage.check_seen()
        return made(stage, context)
    except FullDisk as error:
        return error
    except Exception:
        return traceback.format_exc()
