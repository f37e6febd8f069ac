"""The display of a running sweep: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.core.errors import without_secrets
from harness.core.progress import Progress
from harness.core.rows import Outcome
from harness.core.stages import Trial, objective, short_name
from harness.sweep.plan import Plan, duration
from harness.sweep.studies import study

SECONDS_BETWEEN_LINES = 5.0


@dataclass
class State:
    """The current state of the sweep."""

    total: int
    done: int = 0
    failed: int = 0
    running: int = 0
    best: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)  # by study and objective
    work: dict[tuple[str, str], Progress | str] = field(default_factory=dict)  # by the stage's kind and key
    stages_total: int = 0
    stages_done: int = 0
    stages_failed: int = 0  # or not made because one that they need failed
    paced: tuple[float, int] | None = None  # when only trials were left, and how many had ended

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return self.done + self.failed

    @property
    def only_trials(self) -> bool:
        """Whether there are no more stages to make."""
        return self.stages_done + self.stages_failed >= self.stages_total

    @property
    def left(self) -> str:
        """The time left once all stages are made, at the pace of the trials since then."""
        if self.total == self.ended:
            return duration(0)
        if self.paced is None or self.ended < self.paced[1] + 2:
            return "?"
        began, before = self.paced
        return duration((time.monotonic() - began) / (self.ended - before) * (self.total - self.ended))

    @property
    def stages(self) -> str:
        """How many stages are made, empty if there are none to make."""
        failed = f", {self.stages_failed} failed" if self.stages_failed else ""
        return f"stages {self.stages_done}/{self.stages_total} made{failed}" if self.stages_total else ""

    @property
    def bests(self) -> list[str]:
        """The best trial of each study so far, by its objective."""
        return [
            f"best {study} by {objective}: {_measured(study, objective, value)} ({where})"
            for (study, objective), (value, where) in self.best.items()
        ]

    def line(self) -> str:
        """Everything in one line."""
        best = "".join(f"; {text}" for text in self.bests)
        stages = "" if self.only_trials else f"{self.stages}; "
        running = min(self.running, self.total - self.ended)
        return (
            f"{stages}trials {self.done}/{self.total} done, {running} running, {self.failed} failed{best}; "
            f"{self.left} left"
        )


def _measured(name: str, objective: str, value: float) -> str:
    """Returns an objective's value as its column declares it: shares in percent."""
    columns = {column.name: column for table in study(name).tables for column in table.columns}
    unit = columns[objective].unit if objective in columns else ""
    return f"{value:.1%}" if unit.startswith("share") else f"{value:.4g} {unit}".rstrip()


class Display:
    """Shows progress as plain lines, at most one of each kind every few seconds. Base of the live display."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self.state = State(total=plan.to_run, stages_total=len(plan.stages))
        self._stream = stream
        self._shown: dict[tuple[str, str], float] = {}  # when each kind of line was last shown
        self.say("\n".join(plan.lines()))

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception: Any) -> None:
        """Ends the display."""

    def say(self, text: str) -> None:
        """Prints lines permanently."""
        print(text, file=self._stream, flush=True)

    def working(self, kind: str, key: str, update: Progress | str) -> None:
        """Shows how far the work on a stage is, or what it waits for."""
        self.state.work[kind, key] = update
        finished = isinstance(update, Progress) and update.finished
        self._paced((kind, key), working_line(kind, key, update), last=finished)

    def stage_made(self, kind: str, key: str, seconds: float) -> None:
        """Shows that a stage has been made."""
        self.state.stages_done += 1
        self.state.work.pop((kind, key), None)
        self.say(f"{short_name(kind, key)}: made in {duration(seconds)}")

    def given_up(self, stages: int) -> None:
        """Counts stages that will not be made: a failed one and those that need it."""
        self.state.stages_failed += stages

    def stage_failed(self, kind: str, key: str, error: str) -> None:
        """Shows the last line of a failed stage's traceback; its trials' rows hold all of it."""
        self.state.work.pop((kind, key), None)
        last = without_secrets(error.strip().splitlines()[-1])
        self.say(f"failed: {short_name(kind, key)}: {last}")

    def running(self, count: int) -> None:
        """Sets how many trials are running."""
        self.state.running = count
        if self.state.paced is None and self.state.only_trials and count:
            self.state.paced = time.monotonic(), self.state.ended

    def outcome(self, trial: Trial, outcome: Outcome) -> None:
        """Counts a trial that has ended."""
        state = self.state
        if outcome.failed:
            state.failed += 1
            error = next(row["error"] for rows in outcome.tables.values() for row in rows)
            self.say(f"failed: {describe(trial.axes)}: {error.strip().splitlines()[-1]}")
        else:
            state.done += 1
            value = objective(trial, outcome)
            if value is not None and trial.searchable:
                name = trial.study, trial.objective
                best = state.best.get(name, (float("-inf"), ""))
                state.best[name] = max(best, (value, describe(trial.axes)), key=lambda pair: pair[0])
        self._paced(("trials", ""), state.line(), last=state.ended == state.total)

    def _paced(self, what: tuple[str, str], line: str, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._shown.get(what, -SECONDS_BETWEEN_LINES) >= SECONDS_BETWEEN_LINES:
            self._shown[what] = now
            self.say(line)


class LiveDisplay(Display):
    """Shows progress as a table that stays at the bottom of the terminal."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self._console = Console(file=stream)
        super().__init__(plan, stream)
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4)

    def __enter__(self) -> "Display":
        self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Prints above the table."""
        self._console.print(Text(text))

    def _paced(self, what: tuple[str, str], line: str, last: bool) -> None:
        """Prints nothing: the table shows it."""

    def _table(self) -> Group:
        state = self.state
        table = Table(box=None, pad_edge=False)
        for name in ("done", "running", "failed", "left"):
            table.add_column(name, justify="right")
        table.add_row(f"{state.done}/{state.total}", str(state.running), str(state.failed), state.left)
        stages = Text(state.stages)
        work = [
            Text(working_line(*stage, update), overflow="ellipsis", no_wrap=True)
            for stage, update in list(state.work.items())  # it changes while this thread draws
        ]
        best = [Text(text) for text in state.bests]
        return Group(stages, *work, table, *best)


def working_line(kind: str, key: str, update: Progress | str) -> str:
    """Returns the line that shows how far the work on a stage is."""
    if isinstance(update, str):
        return f"{short_name(kind, key)}: {update}"
    workers = f" on {update.workers} workers" if update.workers > 1 else ""
    parts = [
        f"{update.networks} networks" if update.networks is not None else "",
        f"{update.unit} {update.done}/{update.total}",
        f"loss {update.loss:.4f}" if update.loss is not None else "",
        f"{update.rate:.0f} {update.examples}/s" if update.rate is not None else "",
        f"{update.seconds_left:.0f} s left" if update.seconds_left is not None else "",
    ]
    return f"{short_name(kind, key)}{workers}: {'  '.join(part for part in parts if part)}"


def describe(axes: Mapping[str, Any]) -> str:
    """Returns a trial's swept values for display."""
    shown = {
        name: value
        for name, value in axes.items()
        if value is not None and name not in ("block_name", "backbone", "sigma", "log_snr")
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def open_display(plan: Plan, quiet: bool) -> Display:
    """Returns the display that suits the output; `quiet` keeps standard output free for JSON."""
    stream = sys.stderr if quiet else sys.stdout
    kind = LiveDisplay if stream.isatty() else Display
    return kind(plan, stream)
