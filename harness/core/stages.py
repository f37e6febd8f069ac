"""Stages and trials: work identified by everything that its result depends on, and done once.

A `Stage` makes an artifact that others read: a data set, a trained network, the features of a block at a timestep.
A `Trial` reads stages and produces rows. Both are plain data that can be sent between processes; their `Code` names
the function that does the work, "module:function", so that planning a sweep does not import torch.

Keys are derived, never assembled by hand: a stage's key covers its code, its values and the stages that it needs; a
trial's covers its code, its axes and values, and what every stage that it needs or reads contains.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.artifacts import ArtifactStore, Damaged
from harness.core.errors import without_secrets
from harness.core.fingerprint import fingerprint
from harness.core.progress import Progress
from harness.core.registry import load_attribute
from harness.core.rows import Outcome
from harness.core.threads import one_thread

MAKE_ATTEMPTS = 3
STAGE_GPU, TRIAL_GPU = (
    0.75,
    0.25,
)  # of a GPU, for each process: a stage and a small trial share one, or four trials


def short_name(kind: str, key: str) -> str:
    """Returns a stage's kind and abbreviated key for display, as in "backbone 1a2b3c"."""
    return f"{kind} {key[:6]}".rstrip()


@dataclass(frozen=True)
class Work:
    """The amount of work, for the plan's estimate."""

    image_passes: int = 0  # forward passes of one image through the backbone; a training step counts as three
    seconds: float = 0.0  # estimate for one CPU core, used until stages of this kind have been measured
    stored_bytes: int = 0  # size of the artifact, if it is large


@dataclass(frozen=True)
class Code:
    """Code whose results are stored. Declare each piece once, at module level, where planning imports it."""

    name: str  # unique; part of keys, so that moving `function` does not change them
    version: int  # increase it when the same values would give different numbers
    function: str = ""  # "module:function" that does the work; empty for code that other code uses
    uses: tuple["Code", ...] = ()  # shared code that affects the result: the training loop, the noise

    @property
    def versions(self) -> list[Any]:
        """Its name and version and those of all code that it uses, as they enter keys."""
        return [self.name, self.version, *(code.versions for code in self.uses)]


@dataclass(frozen=True)
class Stage:
    """A piece of shared work. `code.function(stage, folder, context)` fills `folder`."""

    kind: str  # the folder in artifacts/
    code: Code
    config: Mapping[str, Any]  # values that the content depends on
    needs: Mapping[str, "Stage"] = field(default_factory=dict)
    part: Mapping[str, Any] = field(default_factory=dict)  # which part of that content this stage holds
    options: Mapping[str, Any] = field(default_factory=dict)  # affect speed, not content: workers, batch
    work: Work = Work()
    trains: bool = False  # it starts its own Ray Train workers and only waits for them
    local: bool = False  # it reads files that may exist only on the machine that plans the sweep
    siblings: tuple["Stage", ...] = ()  # stages made by the same work; `code` publishes the missing ones
    group: str | None = None  # the same for all siblings, so that only one of them is made at a time
    # further stages that hold this one's content: whoever needs this one reads them too; made after it, in no key
    parts: tuple["Stage", ...] = ()
    note: str = ""  # what the plan says about it

    @property
    def short_name(self) -> str:
        """Kind and abbreviated key for display, as in "backbone 1a2b3c"."""
        return short_name(self.kind, self.key)

    @property
    def job(self) -> str:
        """The key of the work that makes this stage: the same for all siblings."""
        return self.group or self.key

    @property
    def before(self) -> list["Stage"]:
        """The stages that must be there before this one can be made: those that it needs, and their parts."""
        return with_parts(self.needs.values())

    @cached_property
    def key(self) -> str:
        """The fingerprint of everything that the artifact depends on, stages included: its name in the store."""
        needs = {name: stage.key for name, stage in self.needs.items()}
        return fingerprint([self.kind, self.code.versions, self.config, self.part, needs])

    @cached_property
    def content(self) -> str:
        """The fingerprint of what all parts of this content hold together, however it is divided."""
        needs = {name: stage.content for name, stage in self.needs.items()}
        return fingerprint([self.kind, self.code.versions, self.config, needs])


def with_parts(stages: Iterable[Stage]) -> list[Stage]:
    """Returns stages, each followed by its parts."""
    return [one for stage in stages for one in (stage, *stage.parts)]


@dataclass(frozen=True)
class Trial:
    """One cell of the table to fill in. `code.function(trial, context)` returns rows by table name."""

    study: str
    table: str  # the table with one row per trial
    objective: str  # the column of that table to maximise
    code: Code
    axes: Mapping[str, Any]  # the swept values: columns of the table
    config: Mapping[str, Any]  # other values that the result depends on
    seed: int
    data: str
    data_fingerprint: str
    needs: Mapping[str, Stage] = field(default_factory=dict)
    # more stages: each entry holds the shards of one content
    reads: Mapping[str, tuple[Stage, ...]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # affect speed and memory, not rows
    seconds: float = 0.2  # an estimate, until trials of this table have been measured
    searchable: bool = True  # whether a search may skip it; controls always run
    note: str = ""  # what the plan says about how it will be run

    @property
    def stages(self) -> list[Stage]:
        """All stages that the trial uses directly."""
        read = (stage for shards in self.reads.values() for stage in shards)
        return with_parts([*self.needs.values(), *read])

    @cached_property
    def key(self) -> str:
        """The fingerprint of everything that the trial's rows depend on: the trial's name in every table.

        The content of stages counts, not how it is cut into shards, so a larger grid changes no key.
        """
        needs = {name: stage.content for name, stage in self.needs.items()}
        reads = {name: sorted({stage.content for stage in stages}) for name, stages in self.reads.items()}
        return fingerprint([self.study, self.code.versions, self.axes, self.config, self.seed, needs, reads])


@dataclass
class Context:
    """Gives access to artifacts; a missing one is made, once, by whoever needs it first."""

    store: ArtifactStore
    provenance: Mapping[str, Any]  # the columns that every row of this run carries
    ray: bool = True  # whether training may start Ray Train workers
    accelerators: bool = True  # whether GPUs may be used at all
    say: Callable[[str, str, Progress | str], None] | None = None  # say(kind, key, update) displays progress

    def progress(self, kind: str, key: str, update: Progress | str) -> None:
        """Displays how far the work on a stage is, or what it waits for, if there is a display.

        `kind` and `key` are those of the stage; `key` is empty for work on behalf of a trial.
        """
        if self.say is not None:
            self.say(kind, key, update)

    def has(self, stage: Stage) -> bool:
        """Returns whether `stage` has been made."""
        return self.store.manifest(stage.kind, stage.key) is not None

    def ensure(self, stage: Stage) -> None:
        """Makes `stage` and the stages that it needs, unless they exist."""
        if self.has(stage):
            return
        for need in stage.before:
            self.ensure(need)

        def waiting() -> None:
            self.progress(stage.kind, stage.key, "waiting for another sweep that is making it")

        with self.store.lock(stage.kind, stage.job, waiting):
            if self.has(stage):
                return
            began = time.monotonic()
            make = load_attribute(stage.code.function)
            with self.store.scratch() as folder, one_thread():
                make(stage, folder, self)
                self.publish(stage, folder, time.monotonic() - began)

    def publish(self, stage: Stage, folder: Path, seconds: float) -> None:
        """Publishes `folder` as the artifact of `stage`. For `ensure`, and for code that also makes siblings."""
        about = {
            "kind": stage.kind,
            "key": stage.key,
            "code": stage.code.versions,
            "config": dict(stage.config),
            "part": dict(stage.part),
            "needs": {name: need.key for name, need in stage.needs.items()},
            "image_passes": stage.work.image_passes,
            "guess": stage.work.seconds,
            "seconds": seconds,
            "provenance": dict(self.provenance),
        }
        self.store.publish(stage.kind, stage.key, folder, about)

    def file(self, stage: Stage, name: str) -> Path:
        """Returns a verified local path to one file of `stage`. A damaged artifact is remade, never read."""
        for _ in range(MAKE_ATTEMPTS):
            self.ensure(stage)
            try:
                return self.store.file(stage.kind, stage.key, name)
            except Damaged as error:
                damage = error
                self.store.discard(stage.kind, stage.key)
        raise damage

    def folder(self, stage: Stage) -> Path:
        """Returns a local folder with all files of `stage`, verified."""
        self.ensure(stage)
        manifest = self.store.manifest(stage.kind, stage.key)
        names = list(manifest["files"]) if manifest else []
        paths = [self.file(stage, name) for name in names]
        return paths[0].parents[len(Path(names[0]).parts) - 1]


def shards(total: int, size: int, batch: int) -> list[tuple[int, int]]:
    """Returns the ranges into which `total` items are cut, each an artifact of its own, so that little work is lost.

    A range holds `size` items, rounded up to whole batches, so that each item is computed in the same batch, and to
    the same bits, wherever the cuts are.
    """
    step = -(-size // batch) * batch
    return [(begin, min(begin + step, total)) for begin in range(0, total, step)]


def objective(trial: Trial, outcome: Outcome) -> float | None:
    """Returns the number that a search maximises, or None if the trial failed."""
    return None if outcome.failed else outcome.tables[trial.table][0].get(trial.objective)


def run(trial: Trial, context: Context, device: str) -> Outcome:
    """Runs a trial and returns its outcome: rows, or a failure with its traceback. Never raises an `Exception`."""
    began_at, began = time.time(), time.monotonic()
    rows: dict[str, list[dict[str, Any]]] = {}
    error = None
    try:
        function = load_attribute(trial.code.function)
        with one_thread():
            rows = function(trial, context)
    except Exception:
        error = traceback.format_exc()
    return outcome(trial, context.provenance, device, rows, error, began_at, time.monotonic() - began)


def failure(trial: Trial, provenance: Mapping[str, Any], error: str) -> Outcome:
    """Returns the outcome of a trial that could not start or whose process died."""
    return outcome(trial, provenance, "unknown", {}, error, time.time(), 0.0)


def outcome(
    trial: Trial,
    provenance: Mapping[str, Any],
    device: str,
    rows: Mapping[str, list[dict[str, Any]]],
    error: str | None,
    began_at: float,
    seconds: float,
) -> Outcome:
    """Returns a trial's outcome, its rows completed with the columns that all tables share."""
    common = {
        **provenance,
        "key": trial.key,
        "status": "failed" if error else "ok",
        "error": without_secrets(error) if error else None,
        "data": trial.data,
        "data_fingerprint": trial.data_fingerprint,
        "seed": trial.seed,
        "device": device,
        "began_at": began_at,
        "seconds": seconds,
    }
    rows = {trial.table: [{}]} if error else rows
    tables = {
        table: [{**common, **(trial.axes if table == trial.table else {}), **row} for row in table_rows]
        for table, table_rows in rows.items()
    }
    failed = any(row["status"] != "ok" for found in tables.values() for row in found)
    return Outcome(key=trial.key, study=trial.study, failed=failed, tables=tables)
