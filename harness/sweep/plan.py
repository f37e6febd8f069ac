"""The plan: which trials an experiment has, which are done, which are missing and what they will cost."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

import pyarrow as pa
from rich import filesize

from harness.core.cache import cache_bytes
from harness.core.stages import Context, Stage, Trial
from harness.data.config import DataConfig
from harness.data.dataset import Images
from harness.sweep.search_plan import Search, is_searched, plan_searches, screening_trials
from harness.sweep.studies import studies

MANIFESTS_READ = 20  # of each kind, to estimate how long its stages take


@dataclass(frozen=True)
class Plan:
    """Trials, and the stages that the missing ones need."""

    experiment: Any
    trials: list[Trial]  # all that the experiment can have
    missing: list[Trial]  # to run, apart from searches
    searches: list[Search]  # searches, each of which runs some of its candidates
    done: int
    failed_before: int  # of the missing: failed in an earlier run, and are retried
    stages: list[Stage]  # missing ones, each after those that it needs
    search_stages: list[Stage]  # those that searches may make in addition
    stage_seconds: float
    trial_seconds: float
    slots: int  # tasks that run in parallel, for the estimate
    damage: list[str] = field(default_factory=list)  # recorded rows that were left out, one line each
    hints: list[str] = field(default_factory=list)  # what would be slow, and what to set

    @property
    def to_run(self) -> int:
        """How many trials will be run."""
        return len(self.missing) + sum(search.budget for search in self.searches)

    @property
    def image_passes(self) -> int:
        """Forward passes of one image through the backbone; a training step counts three per image."""
        return sum(stage.work.image_passes for stage in [*self.stages, *self.search_stages])

    @property
    def stored_bytes(self) -> int:
        """The size of the images and features to be stored."""
        return sum(stage.work.stored_bytes for stage in [*self.stages, *self.search_stages])

    @property
    def seconds(self) -> float:
        """The estimated run time."""
        return (self.stage_seconds + self.trial_seconds) / self.slots

    @property
    def notes(self) -> list[str]:
        """The notes of the stages to make and those they need, and of the trials to run, each once."""
        candidates = (trial for search in self.searches for trial in search.candidates)
        stages = (one for stage in [*self.stages, *self.search_stages] for one in (*stage.before, stage))
        notes = [stage.note for stage in stages] + [trial.note for trial in [*self.missing, *candidates]]
        return [note for note in dict.fromkeys(notes) if note] + self.hints

    @cached_property
    def data(self) -> list[str]:
        """What was read of each data set and backbone, and what was left out, each once."""
        return self._of_stages("about")

    @cached_property
    def warnings(self) -> list[str]:
        """What makes results mean less than they seem to: traps in the data sets, each once."""
        return self._of_stages("warnings")

    @cached_property
    def data_sets(self) -> dict[str, Stage]:
        """The data sets' stages, by name."""
        stages = {
            stage.key: stage for trial in self.trials for stage in trial.stages if stage.kind == "dataset"
        }
        return {DataConfig(**stage.options["data"]).display_name: stage for stage in stages.values()}

    def _of_stages(self, option: str) -> list[str]:
        stages = {id(stage): stage for trial in self.trials for stage in trial.stages}
        return list(dict.fromkeys(one for stage in stages.values() for one in stage.options.get(option, ())))

    def summary(self) -> dict[str, Any]:
        """Returns the plan as plain data, for `--json`."""
        return {
            "experiment": self.experiment.name,
            "trials": len(self.trials),
            "done": self.done,
            "missing": self.to_run,
            "failed_before": self.failed_before,
            "by_study": dict(Counter(trial.study for trial in self.trials)),
            "stages_to_make": dict(Counter(stage.kind for stage in self.stages)),
            "notes": self.notes,
            "damage": self.damage,
            "data": self.data,
            "warnings": self.warnings,
            "searches": [search.summary() for search in self.searches],
            "image_passes": self.image_passes,
            "stored_bytes": self.stored_bytes,
            "estimated_seconds": round(self.seconds, 1),
        }

    def lines(self) -> list[str]:
        """Returns the plan for display."""
        facts = self.summary()
        studies = ", ".join(f"{count} {study}" for study, count in facts["by_study"].items())
        lines = [
            f"{facts['experiment']}: {facts['trials']} trials ({studies}); "
            f"{facts['done']} done, {facts['missing']} missing"
            + (f", {self.failed_before} of them failed before" if self.failed_before else "")
        ]
        lines += [*self.data, *self.damage]
        lines += [f"before you trust this: {warning}" for warning in self.warnings]
        lines += [search.line() for search in self.searches]
        lines += self.notes
        if self.stages or self.search_stages:
            made = ", ".join(f"{count} {kind}" for kind, count in facts["stages_to_make"].items())
            stored = filesize.decimal(self.stored_bytes)
            passes = f"{self.image_passes:,} image passes through the backbone"
            most = "at most " if self.search_stages else ""
            lines.append(
                f"stages to make: {made or 'as trials need them'}; {most}{passes}, {stored} to store"
            )
        if self.to_run:
            lines.append(f"estimated time: {duration(self.seconds)} with {self.slots} tasks in parallel")
        return lines


def duration(seconds: float) -> str:
    """Returns seconds in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def make_plan(experiment: Any, images: Images, tables: Mapping[str, pa.Table], context: Context) -> Plan:
    """Plans `experiment` on its images, given the recorded rows; writes nothing.

    Raises `UserError` for settings that the data does not allow.
    """
    trials = all_trials(experiment, images)
    screens = screening_trials(experiment.search, trials)
    recorded = _recorded([*trials, *screens], tables)
    done = {key: row["objective"] for key, row in recorded.items() if row["status"] == "ok"}
    search = experiment.search
    missing = [
        trial
        for trial in trials
        if trial.key not in done and (search.name == "grid" or not is_searched(trial, search.name))
    ]
    searches = plan_searches(search, trials, screens, done)
    stages = missing_stages(
        [*missing, *(trial for search in searches for trial in search.candidates)], context
    )
    if searches:  # what a search may never need is made by the first trial that needs it
        needed = {stage.job for stage in missing_stages(missing, context)}
        stages = [stage for stage in stages if stage.job in needed or stage.local or stage.trains]
    jobs = {stage.job for stage in stages}
    may_need = missing_stages([trial for search in searches for trial in search.most], context)
    search_stages = [stage for stage in may_need if stage.job not in jobs]
    return Plan(
        experiment=experiment,
        trials=[*trials, *screens],
        missing=missing,
        searches=searches,
        done=len(done),
        failed_before=sum(trial.key in recorded for trial in missing),
        stages=stages,
        search_stages=search_stages,
        stage_seconds=_stage_seconds([*stages, *search_stages], context),
        trial_seconds=_trial_seconds(missing, tables)
        + sum(_trial_seconds(search.most[: search.budget], tables) for search in searches),
        slots=os.cpu_count() or 1,
        hints=_hints(stages, context),
    )


def _hints(stages: Iterable[Stage], context: Context) -> list[str]:
    """Returns a sentence for each training that would download images again and again."""
    if context.store.storage.local is not None:
        return []
    cache = cache_bytes()
    found = []
    for stage in stages:
        held = sum(part.work.stored_bytes for need in stage.needs.values() for part in need.parts)
        if held > cache and stage.options.get("train", {}).get("shuffle_window", 1) is None:
            images = stage.needs["dataset"].parts[-1].part["images"][1]
            found.append(
                f"{stage.short_name}: training reads {held / 1e9:.3g} GB of images in random order, but a machine's "
                f"cache of the object store holds {cache / 1e9:.3g} GB; set HARNESS_CACHE_GB, or "
                f"train.shuffle_window={int(cache / 4 / held * images)} to shuffle neighbours"
            )
    return found


def _recorded(trials: Iterable[Trial], tables: Mapping[str, pa.Table]) -> dict[str, dict[str, Any]]:
    """Returns status and objective, by key, of the trials that have a row."""
    wanted: dict[tuple[str, str], set[str]] = {}
    for trial in trials:
        wanted.setdefault((trial.table, trial.objective), set()).add(trial.key)
    found: dict[str, dict[str, Any]] = {}
    for (table, column), keys in wanted.items():
        rows = (tables[table][name].to_pylist() for name in ("key", "status", column))
        for key, status, value in zip(*rows, strict=True):
            if key in keys and found.get(key, {}).get("status") != "failed":  # one failed row is enough
                found[key] = {"status": status, "objective": value}
    return found


def all_trials(experiment: Any, images: Images) -> list[Trial]:
    """Returns the trials of all of an experiment's studies on its `images`."""
    trials: list[Trial] = []
    for study in studies():
        config = getattr(experiment, study.name)
        if config is not None:
            trials += study.trials(config, images, experiment.seed)
    return trials


def missing_stages(trials: Iterable[Trial], context: Context) -> list[Stage]:
    """Returns the stages to make for `trials`, each after its needs; only the first of siblings."""
    found: dict[str, Stage] = {}
    seen: set[str] = set()

    def visit(stage: Stage) -> None:
        if stage.key in seen:
            return
        seen.add(stage.key)
        if context.has(stage):
            return
        for need in stage.before:
            visit(need)
        found.setdefault(stage.job, stage)

    wanted = {id(stage): stage for trial in trials for stage in trial.stages}
    context.store.prefetch([(stage.kind, stage.key) for stage in wanted.values()])
    for stage in wanted.values():
        visit(stage)
    return list(found.values())


def _stage_seconds(stages: Iterable[Stage], context: Context) -> float:
    """Adds up the stages' estimates, each corrected by how far off those of its kind were before."""
    factors: dict[str, float] = {}
    total = 0.0
    for stage in stages:
        if stage.kind not in factors:
            factors[stage.kind] = _correction(stage.kind, context)
        total += stage.work.seconds * factors[stage.kind]
    return total


def _correction(kind: str, context: Context) -> float:
    keys = context.store.storage.names(f"artifacts/{kind}")[:MANIFESTS_READ]
    manifests = [context.store.manifest(kind, key) for key in keys]
    ratios = [found["seconds"] / found["guess"] for found in manifests if found and found.get("guess")]
    return median(ratios) if ratios else 1.0


def _trial_seconds(missing: Iterable[Trial], tables: Mapping[str, pa.Table]) -> float:
    """Adds up the median times of earlier trials with the same table and head, or else the studies' estimates."""
    measured: dict[tuple[str, Any], list[float]] = {}
    for name, table in tables.items():
        columns = [table[column].to_pylist() for column in ("seconds", "status")]
        heads = table["head"].to_pylist() if "head" in table.column_names else [None] * len(table)
        for seconds, status, head in zip(*columns, heads, strict=True):
            if status == "ok" and seconds is not None:
                measured.setdefault((name, head), []).append(seconds)
    typical = {place: median(values) for place, values in measured.items()}
    return sum(typical.get((trial.table, trial.axes.get("head")), trial.seconds) for trial in missing)
