"""Runs an experiment: plan, stages, trials, tables."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from harness.core.artifacts import ArtifactStore
from harness.core.provenance import provenance
from harness.core.rows import Journal, Outcome, RowStore
from harness.core.stages import Stage, Trial, Workshop, failure, objective, run
from harness.core.storage import Storage
from harness.sweep.display import Display, open_display
from harness.sweep.plan import Plan, Search, make_plan

Record = Callable[[Outcome], None]


def plan_experiment(experiment: Any, storage: Storage) -> Plan:
    """Plans an experiment against what a results folder holds. Writes nothing. Raises `UserError`."""
    rows = RowStore(storage)
    return make_plan(experiment, rows.tables(), _workshop(storage, debug=True))


def _workshop(storage: Storage, debug: bool) -> Workshop:
    return Workshop(ArtifactStore(storage), provenance(), ray=not debug)


def sweep(
    experiment: Any, storage: Storage, *, address: str | None, debug: bool, quiet: bool
) -> dict[str, Any]:
    """Runs what is missing of an experiment and writes its tables. Returns the summary that `--json` prints.

    Raises `UserError` before anything is written. Whatever ends the sweep, recorded rows stay.
    """
    began = time.monotonic()
    storage.check_writable()
    rows = RowStore(storage)
    workshop = _workshop(storage, debug)
    plan = make_plan(experiment, rows.tables(), workshop)
    with open_display(plan, quiet) as display, ExitStack() as stack:
        stack.callback(
            lambda: rows.write_experiment(
                experiment.name, [trial.key for trial in plan.trials], rows.tables()
            )
        )
        if plan.to_run:
            journal = rows.journal(str(workshop.provenance["run"]))
            stack.callback(journal.compact)
            _fill(plan, workshop, _recorder(plan, journal, display), display, address, debug)
    state = display.state
    return {
        **plan.summary(),
        "done_now": state.done,
        "failed_now": state.failed,
        "seconds": time.monotonic() - began,
    }


def _recorder(plan: Plan, journal: Journal, display: Display) -> Record:
    trials = {trial.key: trial for trial in plan.trials}

    def record(outcome: Outcome) -> None:
        journal.record(outcome)
        display.outcome(trials[outcome.key], outcome)

    return record


def _fill(
    plan: Plan, workshop: Workshop, record: Record, display: Display, address: str | None, debug: bool
) -> None:
    """Makes the stages and runs the trials, in this process or on Ray."""
    if debug:
        _fill_here(plan, workshop, record, display)
        return
    from harness.sweep.cluster import Board, connected
    from harness.sweep.prepare import make_on_ray
    from harness.sweep.search import GridSearcher
    from harness.sweep.tuning import run_trials

    with ExitStack() as stack:
        stack.enter_context(connected(address))
        board = Board()
        workshop.say = board
        errors = make_on_ray(plan.stages, workshop, display, board)
        display.trials_begin()
        run_trials(_able(plan.missing, errors, workshop, record), workshop, record, display, board)
        for search in _able_searches(plan, errors, workshop, record):
            searcher = GridSearcher(search, plan.experiment.seed)
            run_trials(search.candidates, workshop, record, display, board, searcher, search.budget)


def _fill_here(plan: Plan, workshop: Workshop, record: Record, display: Display) -> None:
    from harness.sweep.prepare import make_here
    from harness.training.device import describe_device, pick_device

    workshop.say = display.working
    errors = make_here(plan.stages, workshop, display)
    display.trials_begin()
    device = describe_device(pick_device(workshop))
    for trial in _able(plan.missing, errors, workshop, record):
        record(run(trial, workshop, device))
    for search in _able_searches(plan, errors, workshop, record):
        from harness.sweep.search import GridSearcher

        searcher, by_key = (
            GridSearcher(search, plan.experiment.seed),
            {trial.key: trial for trial in search.candidates},
        )
        for count in range(search.budget):
            trial = by_key[searcher.suggest(str(count))["key"]]
            outcome = run(trial, workshop, device)
            record(outcome)
            searcher.on_trial_complete(str(count), {"objective": objective(trial, outcome)})


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


def _able_searches(plan: Plan, errors: dict[str, str], workshop: Workshop, record: Record) -> list[Search]:
    """Returns the searches whose candidates' stages are there, as far as they are made beforehand."""
    searches = []
    for search in plan.searches:
        if any(stage.job in errors for trial in search.candidates for stage in _below(trial)):
            _able(search.candidates[: search.budget], errors, workshop, record)
        else:
            searches.append(search)
    return searches


def _below(trial: Trial) -> list[Stage]:
    return [*trial.needs.values(), *trial.reads.values()]
