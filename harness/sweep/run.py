"""Runs an experiment: plan, stages, trials, tables."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from harness.core.artifacts import ArtifactStore
from harness.core.errors import BadData, UserError, full_disk_explained
from harness.core.provenance import provenance
from harness.core.row_store import Journal, RowStore
from harness.core.rows import Outcome, with_finite_metrics
from harness.core.stages import Context, Trial, failure
from harness.core.storage import Storage
from harness.data.contact import decoded_facts
from harness.data.dataset import Images, verify_data
from harness.sweep.display import Display, open_display
from harness.sweep.local_executor import LocalExecutor, Record
from harness.sweep.plan import Plan, make_plan
from harness.sweep.schedule import Schedule
from harness.sweep.search_plan import Search
from harness.sweep.studies import tables as declared_tables


def plan_experiment(experiment: Any, storage: Storage, verify: bool = False) -> Plan:
    """Plans an experiment, given a results folder. Writes nothing there. Raises `UserError`.

    With `verify` all images are read again, also those of files that look unchanged.
    """
    if verify:
        verify_data(experiment)
    rows = RowStore(storage, declared_tables())
    return _plan(experiment, rows, _context(storage, debug=True))


def _plan(experiment: Any, rows: RowStore, context: Context) -> Plan:
    tables = rows.tables()  # first, since it checks that the results can be read
    plan = make_plan(experiment, Images.read(experiment.data, experiment.seed), tables, context)
    return replace(plan, damage=rows.damage)


def _context(storage: Storage, debug: bool) -> Context:
    return Context(ArtifactStore(storage), provenance(), ray=not debug)


def sweep(
    experiment: Any, storage: Storage, *, address: str | None, debug: bool, quiet: bool, verify: bool = False
) -> dict[str, Any]:
    """Runs the missing trials of an experiment and writes its tables. Returns the summary that `--json` prints.

    With `verify` all images are read again, also those of files that look unchanged. Raises `UserError` before
    anything is written, if images turn out to be unreadable, or if the disk is full. Recorded rows are kept, whatever
    ends the sweep.
    """
    if verify:
        verify_data(experiment)
    with full_disk_explained(storage.describe()):
        return _sweep(experiment, storage, address, debug, quiet)


def _sweep(
    experiment: Any, storage: Storage, address: str | None, debug: bool, quiet: bool
) -> dict[str, Any]:
    began = time.monotonic()
    storage.check_writable()
    if storage.local is not None and (storage.local / experiment.name).is_file():
        raise UserError(
            f"{storage.describe(experiment.name)}: a file is in the way of the tables; remove or rename it"
        )
    rows = RowStore(storage, declared_tables())
    context = _context(storage, debug)
    plan = _plan(experiment, rows, context)
    keys = [trial.key for trial in plan.trials]
    with open_display(plan, quiet) as display, ExitStack() as stack:
        if plan.to_run:
            executor = stack.enter_context(_executor(plan, context, rows, display, address, debug))
            journal = rows.journal(str(context.provenance["run"]))
        stack.callback(
            lambda: rows.write_experiment(experiment.name, keys, rows.tables(), _about(plan, context))
        )
        if plan.to_run:
            stack.callback(journal.compact)
            _fill(plan, context, _recorder(plan, journal, display), executor)
    state = display.state
    return {
        **plan.summary(),
        "done_now": state.done,
        "failed_now": state.failed,
        "seconds": time.monotonic() - began,
    }


def _about(plan: Plan, context: Context) -> dict[str, Any]:
    """Returns what the page says of the data sets: what was read, traps, and once they are decoded, pictures."""
    decoded = [
        facts
        for name, stage in plan.data_sets.items()
        if (facts := decoded_facts(name, stage, context)) is not None
    ]
    return {
        "data": plan.data,
        "warnings": plan.warnings + [one for facts in decoded for one in facts["warnings"]],
        "sheets": [facts["sheet"] for facts in decoded],
    }


def _recorder(plan: Plan, journal: Journal, display: Display) -> Record:
    trials = {trial.key: trial for trial in plan.trials}

    def record(outcome: Outcome) -> None:
        outcome = with_finite_metrics(outcome, journal.declared)
        journal.record(outcome)
        display.outcome(trials[outcome.key], outcome)

    return record


@contextmanager
def _executor(
    plan: Plan, context: Context, rows: RowStore, display: Display, address: str | None, debug: bool
) -> Iterator[Any]:
    """Yields the executor: this process or a Ray cluster."""
    if debug:
        context.say = display.working
        yield LocalExecutor(context, display)
        return
    from harness.sweep.cluster import check_data, check_shared, connected
    from harness.sweep.ray_executor import RayExecutor

    with connected(address):
        rows.begin()
        check_shared(context.store.storage)
        check_data(plan.stages)
        yield RayExecutor(context, display)


def _fill(plan: Plan, context: Context, record: Record, executor: Any) -> None:
    """Makes the stages and runs the trials and searches, each as soon as it can."""

    def searcher(search: Search) -> Any:
        from harness.sweep.searchers import searcher_for

        return searcher_for(search, plan.experiment.seed)

    def unable(trial: Trial, error: str) -> None:
        record(failure(trial, context.provenance, error))

    schedule = Schedule(plan.missing, plan.stages, plan.searches, searcher=searcher, unable=unable)
    executor.run(schedule, record)
    if schedule.refused:
        raise BadData(*schedule.refused)
