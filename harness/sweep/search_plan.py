"""Searches as data: of which trials a search may run how many, what is known already, and who chooses."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.core.stages import Trial
from harness.core.study import AutoSearch, Chooser
from harness.core.tables import Role
from harness.sweep.studies import study


class Search(NamedTuple):
    """Trials of a study, on one data set and network, of which a search runs some only."""

    study: str
    name: str  # "random", "tpe" or "auto"
    axes: tuple[str, ...]
    candidates: list[Trial]
    known: dict[str, float | None]  # objective by key, of those done
    budget: int  # how many more to run; at most, with a chooser
    most: list[Trial]  # as much work as it may be
    grid: list[Trial]  # what it spares
    chooser: Chooser | None = None

    def line(self) -> str:
        """Says what the search takes at most, beside the whole grid."""
        quick = len(self.most) - sum(trial.searchable for trial in self.most) if self.chooser else 0
        trials = (
            f"{len(self.most) - quick if self.chooser else self.budget:,} of {len(self.grid):,} {self.study}"
        )
        return (
            f"search {self.name}: at most {trials} trials"
            + (f" after {quick:,} quick looks" if quick else "")
            + f"; at most {passes(self.most):,} of the grid's {passes(self.grid):,} image passes"
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
    """Returns the image passes that all stages take which `trials` read, each once."""
    stages = {stage.job: stage for trial in trials for shards in trial.reads.values() for stage in shards}
    return sum(stage.work.image_passes for stage in stages.values())


def quick_looks(search: str, trials: Iterable[Trial]) -> list[Trial]:
    """Returns what `search: auto` looks at beside the grid; raises `UserError` where that cannot be."""
    if search != "auto":
        return []
    grids = _groups(trial for trial in trials if is_searched(trial, search))
    return [screen for grid in grids.values() for screen in _auto(grid).screens(grid)]


def _auto(grid: Sequence[Trial]) -> AutoSearch:
    auto = study(grid[0].study).auto
    assert auto is not None, "is_searched keeps other studies out"
    return auto


def is_searched(trial: Trial, search: str) -> bool:
    """Says whether a search decides on this trial; a study without a chooser is run whole by `auto`."""
    return trial.searchable and (search != "auto" or study(trial.study).auto is not None)


def plan_searches(
    config: Any, trials: Iterable[Trial], screens: Iterable[Trial], objectives: Mapping[str, float | None]
) -> list[Search]:
    """Returns what is left to search, one search for each study, data set and network.

    `objectives` are those of the trials that are done, by key.
    """
    if config.name == "grid":
        return []
    grids = _groups(trial for trial in trials if is_searched(trial, config.name))
    quick = _groups(screens)
    found = [_search(config, grid, quick.get(group, []), objectives) for group, grid in grids.items()]
    return [search for search in found if search.budget > 0]


def _groups(trials: Iterable[Trial]) -> dict[tuple[Any, ...], list[Trial]]:
    """Returns trials by what a search does not choose: study, data set, seed and the set-up columns of its table."""
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        apart = _columns(trial, Role.SETUP)
        group = (trial.study, trial.data_fingerprint, trial.seed, *(trial.axes.get(name) for name in apart))
        groups.setdefault(group, []).append(trial)
    return groups


def _columns(trial: Trial, role: Role) -> list[str]:
    """Returns the columns with a role of the table that has one row for each trial."""
    (table,) = (table for table in study(trial.study).tables if table.name == trial.table)
    return table.names(role)


def _search(
    config: Any, grid: list[Trial], screens: Sequence[Trial], objectives: Mapping[str, float | None]
) -> Search:
    candidates = [*grid, *screens]
    known = {trial.key: objectives[trial.key] for trial in candidates if trial.key in objectives}
    chooser, most = None, grid
    budget = min(config.trials, len(grid)) - len(known)
    if config.name == "auto":
        chooser = _auto(grid).chooser(grid, screens, config.trials)
        by_key = {trial.key: trial for trial in candidates}
        most = [by_key[key] for key in chooser.longest()]
        budget = _left(chooser, known)
    first = grid[0]
    axes = tuple(axis for axis in _columns(first, Role.AXIS) if axis in first.axes)
    return Search(first.study, config.name, axes, candidates, known, budget, most, grid, chooser)


def _left(chooser: Chooser, known: Mapping[str, float | None]) -> int:
    """Returns how many trials a search runs at most, beyond those on its way that are known."""
    passed: dict[str, float | None] = {}
    while asked := chooser.next(passed):
        found = {key: known[key] for key in asked if key in known}
        if len(found) < len(asked):
            return len(chooser.longest()) - len(passed) - len(found)
        passed |= found
    return 0
