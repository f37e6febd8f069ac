"""Searches as data: which trials a search may run and how many, what is known already, and what chooses."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from harness.core.errors import unknown
from harness.core.stages import Trial
from harness.core.study import AutoSearch, Chooser
from harness.core.tables import Role
from harness.sweep.studies import study


class Search(NamedTuple):
    """Trials of a study, on one data set and network, of which a search runs only some."""

    study: str
    name: str  # "random", "tpe" or "auto"
    axes: tuple[str, ...]
    candidates: list[Trial]
    known: dict[str, float | None]  # objective by key, of finished ones
    budget: int  # how many more to run; an upper bound with a chooser
    most: list[Trial]  # trials that stand for the most work it can be
    grid: list[Trial]  # all trials that an exhaustive search would run
    chooser: Chooser | None = None

    def line(self) -> str:
        """Returns a line on what the search takes at most, compared with the whole grid."""
        quick = sum(not trial.searchable for trial in self.most)
        whole = f"{len(self.grid):,} {self.study} trials"
        trials = (
            f"{len(self.most):,} trials, {quick:,} of them on some of the images, instead of {whole}"
            if quick
            else f"{len(self.most) if self.chooser else self.budget:,} of {whole}"
        )
        return (
            f"{self.name} search: at most {trials}; at most {passes(self.most):,} of the grid's "
            f"{passes(self.grid):,} image passes"
        )

    def summary(self) -> dict[str, Any]:
        """Returns the same as plain data, for `--json`."""
        return {
            "study": self.study,
            "name": self.name,
            "trials": self.budget,
            "grid_trials": len(self.grid),
            "image_passes": passes(self.most),
            "grid_image_passes": passes(self.grid),
        }


def passes(trials: Iterable[Trial]) -> int:
    """Returns the image passes of all stages that `trials` read, each stage counted once."""
    stages = {stage.job: stage for trial in trials for shards in trial.reads.values() for stage in shards}
    return sum(stage.work.image_passes for stage in stages.values())


def screening_trials(config: Any, trials: Iterable[Trial]) -> list[Trial]:
    """Returns the trials of `search: auto` outside the grid; raises `UserError` if a grid cannot be searched."""
    if config.name != "auto":
        return []
    grids = _groups(trial for trial in trials if is_searched(trial, config.name))
    found = []
    for grid in grids.values():
        auto, method = _auto(config, grid)
        found += auto.screens(method, grid)
    return found


def _auto(config: Any, grid: Sequence[Trial]) -> tuple[AutoSearch, str]:
    """Returns how the study of a grid chooses, and by which method; raises `UserError` for one it does not have."""
    auto = study(grid[0].study).auto
    assert auto is not None, "is_searched excludes other studies"
    if config.method not in (None, *auto.methods):
        raise unknown("search.method", config.method, list(auto.methods))
    return auto, config.method or auto.methods[0]


def is_searched(trial: Trial, search: str) -> bool:
    """Returns whether a search decides on this trial; `auto` runs the whole grid of a study without a chooser."""
    return trial.searchable and (search != "auto" or study(trial.study).auto is not None)


def plan_searches(
    config: Any, trials: Iterable[Trial], screens: Iterable[Trial], objectives: Mapping[str, float | None]
) -> list[Search]:
    """Returns what is left to search, one search for each study, data set and network.

    `objectives` are those of finished trials, by key.
    """
    if config.name == "grid":
        return []
    grids = _groups(trial for trial in trials if is_searched(trial, config.name))
    quick = _groups(screens)
    found = [_search(config, grid, quick.get(group, []), objectives) for group, grid in grids.items()]
    return [search for search in found if search.budget > 0]


def _groups(trials: Iterable[Trial]) -> dict[tuple[Any, ...], list[Trial]]:
    """Groups trials by what a search does not choose: study, data set, seed and the set-up columns of the table."""
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    columns = cache(_columns)  # once a table, not once a trial
    for trial in trials:
        apart = columns(trial.study, trial.table, Role.SETUP)
        group = (trial.study, trial.data_fingerprint, trial.seed, *(trial.axes.get(name) for name in apart))
        groups.setdefault(group, []).append(trial)
    return groups


def _columns(study_name: str, table_name: str, role: Role) -> list[str]:
    """Returns the columns with this role of a study's table."""
    (table,) = (table for table in study(study_name).tables if table.name == table_name)
    return table.names(role)


def _search(
    config: Any, grid: list[Trial], screens: Sequence[Trial], objectives: Mapping[str, float | None]
) -> Search:
    candidates = [*grid, *screens]
    known = {trial.key: objectives[trial.key] for trial in candidates if trial.key in objectives}
    chooser, most = None, grid
    budget = min(config.trials, len(grid)) - len(known)
    if config.name == "auto":
        auto, method = _auto(config, grid)
        chooser = auto.chooser(method, grid, screens, config.trials)
        by_key = {trial.key: trial for trial in candidates}
        most = [by_key[key] for key in chooser.longest()]
        budget = _left(chooser, known)
    first = grid[0]
    axes = tuple(axis for axis in _columns(first.study, first.table, Role.AXIS) if axis in first.axes)
    return Search(first.study, config.name, axes, candidates, known, budget, most, grid, chooser)


def _left(chooser: Chooser, known: Mapping[str, float | None]) -> int:
    """Returns how many more trials a search runs at most, given the known ones that it would ask for."""
    passed: dict[str, float | None] = {}
    while asked := chooser.next(passed):
        found = {key: known[key] for key in asked if key in known}
        if len(found) < len(asked):
            return len(chooser.longest()) - len(passed) - len(found)
        passed |= found
    return 0
