"""Does all work in this process: for `--debug`, and for stages that read this machine's files."""

import errno
import os
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from harness.core.errors import full_disk_explained
from harness.core.rows import Outcome
from harness.core.stages import Context, Stage, Trial, objective, run
from harness.sweep.display import Display

FULL = (errno.ENOSPC, errno.EDQUOT)
Record = Callable[[Outcome], None]


class LocalExecutor:
    """Runs stages and trials one after the other; `harness.sweep.ray_executor` runs them in parallel."""

    def at_once(self) -> int:
        """Returns how many trials may run at the same time."""
        return 1

    def __init__(self, context: Context, display: Display) -> None:
        self._context, self._display = context, display

    def make(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Makes stages one after the other. Returns the tracebacks of failed ones by `Stage.job`."""
        errors: dict[str, str] = {}
        for stage in stages:
            error = inherited(stage, errors)
            began = time.monotonic()
            if error is None:
                error = made(stage, self._context)
                if error is None:
                    self._display.stage_made(stage.kind, stage.key, time.monotonic() - began)
                else:
                    self._display.stage_failed(stage.kind, stage.key, error)
            if error is not None:
                errors[stage.job] = error
        return errors

    def run(self, trials: Sequence[Trial], record: Record, searcher: Any = None, samples: int = 1) -> None:
        """Runs all of `trials`, or `samples` that `searcher` suggests, and calls `record` with each outcome."""
        from harness.training.device import describe_device, pick_device

        device = describe_device(pick_device(self._context))
        by_key = {trial.key: trial for trial in trials}
        for count in range(samples if searcher else len(trials)):
            asked = searcher.suggest(str(count)) if searcher else {"key": trials[count].key}
            if not isinstance(asked, dict):  # the search ended before using up its budget
                return
            trial = by_key[asked["key"]]
            self._display.running(1)
            outcome = run(trial, self._context, device)
            self._display.running(0)
            record(outcome)
            if searcher:
                searcher.on_trial_complete(str(count), {"objective": objective(trial, outcome)})


def made(stage: Stage, context: Context) -> str | None:
    """Makes a stage; returns the traceback if it fails. Raises `FullDisk` if all stages would fail likewise."""
    try:
        context.ensure(stage)
    except Exception as error:
        storage = context.store.storage
        if storage.local is not None:  # with an object store, only one machine's disk is full
            with full_disk_explained(storage.describe()):
                for code in FULL:  # libraries raise their own errors with this text
                    if os.strerror(code) in str(error):
                        raise OSError(code, os.strerror(code)) from error
        return traceback.format_exc()
    return None


def inherited(stage: Stage, errors: dict[str, str]) -> str | None:
    """Returns the error of a failed stage that `stage` needs, None if there is none."""
    return next((errors[need.job] for need in stage.before if need.job in errors), None)
