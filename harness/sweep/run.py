"""Runs an experiment: plan, stages, trials, tables."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from harness.core.artifacts import ArtifactStore
from harness.core.provenance import provenance
from harness.core.rows import Journal, Outcome, RowStore
from harness.core.stages import Stage, Trial, Workshop, failure, run
from harness.core.storage import Storage
from harness.sweep.display import Display, open_display
from harness.sweep.experiment import STUDIES
from harness.sweep.plan import Plan, make_plan

Record = Callable[[Outcome], None]


def plan_experiment(experiment: Any, storage: Storage) -> Plan:
    """Plans an experiment against what a results folder holds. Writes nothing. Raises `UserError`."""
    rows = RowStore(storage)
    return make_plan(experiment, rows.tables(), _workshop(storage, debug=True))


def _workshop(storage: Storage, debug: bool) -> Workshop:
    return Workshop(ArtifactStore(storage), provenance(), ray=not debug)


def sweep(experiment: Any, storage: Storage, *, address: str | None, debug: bool, quiet: bool) -> dict[str, Any]:
    """Runs what is missing of an experiment and writes its tables. Returns the summary that `--json` prints.

    Raises `UserError` before anything is written. Whatever ends the sweep, recorded rows stay.
    """
    began = time.monotonic()
    storage.check_writable()
    rows = RowStore(storage)
    workshop = _workshop(storage, debug)
    plan = make_plan(experiment, rows.tables(), workshop)
    objectives = {name: STUDIES.load(name).objective for name in STUDIES.names()}
    with open_display(plan, objectives, quiet) as display:
        if plan.missing:
            journal = rows.journal(str(workshop.provenance["run"]))
            try:
                _fill(plan, workshop, _recorder(plan, journal, display), display, address, debug)
            finally:
                journal.compact()
                rows.write_experiment(experiment.name, [trial.key for trial in plan.trials], rows.tables())
        else:
            rows.write_experiment(experiment.name, [trial.key for trial in plan.trials], rows.tables())
    state = display.state
    return {**plan.summary(), "done_now": state.done, "failed_now": state.failed, "seconds": time.monotonic() - began}


def _recorder(plan: Plan, journal: Journal, display: Display) -> Record:
    axes = {trial.key: dict(trial.axes) for trial in plan.trials}

    def record(outcome: Outcome) -> None:
        journal.record(outcome)
        display.outcome(outcome, axes[outcome.key])

    return record


def _fill(plan: Plan, workshop: Workshop, record: Record, display: Display, address: str | None, debug: bool) -> None:
    """Makes the stages and runs the trials, in this process or on Ray."""
    if debug:
        _fill_here(plan, workshop, record, display)
        return
    from harness.sweep.cluster import Board, connected
    from harness.sweep.prepare import make_on_ray
    from harness.sweep.tuning import run_trials

    with ExitStack() as stack:
        stack.enter_context(connected(address))
        board = Board()
        workshop.say = board
        errors = make_on_ray(plan.stages, workshop, display, board)
        display.trials_begin()
        run_trials(_able(plan.missing, errors, workshop, record), workshop, record, display, board)


def _fill_here(plan: Plan, workshop: Workshop, record: Record, display: Display) -> None:
    from harness.sweep.prepare import make_here
    from harness.training.device import describe_device, pick_device

    workshop.say = display.working
    errors = make_here(plan.stages, workshop, display)
    display.trials_begin()
    for trial in _able(plan.missing, errors, workshop, record):
        display.running(1)
        record(run(trial, workshop, describe_device(pick_device(workshop))))
    display.running(0)


def _able(trials: Sequence[Trial], errors: dict[str, str], workshop: Workshop, record: Record) -> list[Trial]:
    """Returns the trials whose stages are there; records the others as failed, for the stage's reason."""
    able = []
    for trial in trials:
        reason = next((error for stage in _below(trial) if (error := errors.get(stage.job))), None)
        if reason is None:
            able.append(trial)
        else:
            record(failure(trial, workshop.provenance, reason))
    return able


def _below(trial: Trial) -> list[Stage]:
    return [*trial.needs.values(), *trial.reads.values()]
