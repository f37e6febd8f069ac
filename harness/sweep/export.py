"""Exports the best classifier or generated networks of an experiment: chooses the trial and writes a folder."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from harness.core.artifacts import ArtifactStore
from harness.core.errors import UserError, did_you_mean, full_disk_explained
from harness.core.leftovers import scratch_folder
from harness.core.provenance import provenance
from harness.core.registry import load_attribute
from harness.core.row_store import RowStore
from harness.core.stages import Context, Trial
from harness.core.storage import Storage
from harness.data.dataset import Images
from harness.sweep.plan import all_trials
from harness.sweep.studies import studies, study
from harness.sweep.studies import tables as declared_tables

NETWORKS = 5  # generated networks to write by default


class Choice(NamedTuple):
    """The best setting on validation, and what it was chosen from."""

    trial: Trial
    row: Mapping[str, Any]
    writer: str  # "module:function" that writes it
    settings: int  # how many settings it was chosen from
    left_out: Mapping[str, int]  # how many more there were, by what cannot be exported


def export(
    experiment: Any,
    storage: Storage,
    target: str,
    data: str | None,
    networks: int | None = None,
    more: bool = False,
) -> list[str]:
    """Exports the best result of an experiment to the folder `target`; returns lines to print.

    That is a classifier or, if `networks` is given, that many generated networks of the best trial: those of the
    sweep or, with `more`, new ones from the same generator. `data` names one of several data sets. Raises `UserError`
    if there is nothing to export or the folder is not empty.
    """
    folder = _free(target)
    rows = RowStore(storage, declared_tables())
    tables = rows.tables()
    trials = all_trials(experiment, Images.read(experiment.data, experiment.seed))
    kind = "more networks" if more else "classifier" if networks is None else "networks"
    if kind == "classifier" and not any(_writer(trial, kind) for trial in trials):
        kind, networks = "networks", NETWORKS
    chosen = choose(
        trials, tables, data or experiment.data.display_name, experiment.name, storage.describe(), kind
    )
    context = Context(ArtifactStore(storage), provenance(), ray=False)
    part = _part(folder, target)
    try:
        with full_disk_explained(str(folder)):
            about = {
                "experiment": experiment.name,
                "settings": chosen.settings,
                "left_out": dict(chosen.left_out),
                "folder": folder.name,
                "networks": networks,
            }
            correct = _correct(chosen.trial.key, tables)
            lines = load_attribute(chosen.writer)(chosen.trial, chosen.row, correct, about, part, context)
            if folder.exists():
                folder.rmdir()
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [
        *rows.damage,
        *lines,
        f"written to {folder}; in Python: import harness; harness.load({str(folder)!r})(images)",
    ]


def load(folder: str | Path, device: Any = None) -> Any:
    """Loads what `export` wrote, onto `device`, as `harness.load` does. Raises `UserError`."""
    known = {file: loader for one in studies() for file, loader in one.loaders.items()}
    there = [loader for file, loader in known.items() if (Path(folder).expanduser() / file).is_file()]
    if not there:
        raise UserError(
            f"{folder}: not an export: no readable {' or '.join(known)} in it; "
            "create one with: python -m harness export EXPERIMENT --to FOLDER"
        )
    return load_attribute(there[0])(folder, device)


def _writer(trial: Trial, kind: str) -> str | None:
    """Returns the function, "module:function", that exports this kind of result of a trial, None if there is none."""
    return study(trial.study).exporter(trial, kind)


def choose(
    trials: list[Trial],
    tables: Mapping[str, pa.Table],
    data: str,
    name: str,
    place: str,
    kind: str = "classifier",
) -> Choice:
    """Returns the trial with the largest objective of those that can be exported, the first if several are equal.

    `place` names the results folder for messages, `kind` is "classifier", "networks" or "more networks". Raises
    `UserError` if there is no such trial.
    """
    titles = {trial.data for trial in trials}
    if data not in titles:
        raise UserError(f"--data {data}: not in experiment {name!r}; {did_you_mean(data, titles)}")
    rows = _rows([trial for trial in trials if trial.data == data], tables)
    left_out: Counter[str] = Counter()
    found: list[tuple[float, int, Trial, str]] = []
    for place_in_plan, trial in enumerate(trials):
        row = rows.get(trial.key)
        if row is None or row.get(trial.objective) is None:
            continue
        writer = _writer(trial, kind)
        if writer is None:
            left_out[str(trial.axes.get("features", trial.study))] += 1
        else:
            found.append((row[trial.objective], -place_in_plan, trial, writer))
    if not found:
        raise UserError(
            f"experiment {name!r} has no {kind} of {data} in {place} that can be exported"
            + (f" (only {', '.join(left_out)})" if left_out else f"; run: python -m harness sweep {name}")
        )
    _, _, trial, writer = max(found, key=lambda one: one[:2])
    return Choice(trial, rows[trial.key], writer, len(found), left_out)


def _rows(trials: list[Trial], tables: Mapping[str, pa.Table]) -> dict[str, dict[str, Any]]:
    """Returns the rows of the trials that succeeded, by key."""
    found: dict[str, dict[str, Any]] = {}
    wanted = {trial.key for trial in trials}
    for name in {trial.table for trial in trials}:
        for row in tables[name].to_pylist():
            if row["key"] in wanted and row["status"] == "ok":
                found.setdefault(row["key"], row)
    return found


def _correct(key: str, tables: Mapping[str, pa.Table]) -> np.ndarray | None:
    """Returns which test images a trial classified correctly, as recorded: boolean [N]."""
    rows = tables["correctness"]
    for place, (found, split) in enumerate(
        zip(rows["key"].to_pylist(), rows["split"].to_pylist(), strict=True)
    ):
        if found == key and split == "test":
            return np.asarray(rows["correct"][place].as_py(), bool)
    return None


def _free(target: str) -> Path:
    """Returns the folder to write; raises `UserError` unless it is empty or missing."""
    if not target:
        raise UserError("--to: no folder given; it must be empty or not exist yet")
    try:
        folder = Path(target).expanduser().absolute()
        if folder.is_dir():
            if any(folder.iterdir()):
                raise UserError(f"--to {target}: the folder is not empty; choose another or remove it")
        elif folder.exists() or not folder.name:
            raise UserError(f"--to {target}: not a folder; choose another")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no such user
        raise _unusable(target, error) from None
    return folder


def _part(folder: Path, target: str) -> Path:
    """Creates a hidden folder beside `folder`, in which an export is built; raises `UserError` if that fails."""
    try:
        with full_disk_explained(target):
            return scratch_folder(folder.parent, f".{folder.name}.part-")
    except (OSError, ValueError) as error:
        raise _unusable(target, error) from None


def _unusable(target: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"--to {target[:60]}: cannot be created: {reason}; choose another folder")
