"""What a sweep shows, on a terminal and elsewhere."""

import io
from dataclasses import replace

import pytest

from harness.core.progress import Progress
from harness.core.rows import Outcome
from harness.core.stages import Code, Stage, Trial
from harness.sweep.display import Display, LiveDisplay, working_line
from harness.sweep.plan import Plan


def trial(block, searchable=True):
    axes = {"features": "trained", "block": block, "block_name": "x", "head": "linear"}
    return Trial(
        "features",
        "features",
        "validation_accuracy",
        Code("probe", 1, "x:y"),
        axes,
        {},
        0,
        "digits",
        "f",
        searchable=searchable,
    )


def outcome(one, value=None, error=None):
    row = {"validation_accuracy": value, "error": error}
    return Outcome(one.key, "features", error is not None, {"features": [row]})


@pytest.fixture
def plan():
    trials = [trial(block) for block in range(4)]
    experiment = type("Experiment", (), {"name": "mine"})()
    return Plan(experiment, trials, trials, [], 0, 0, [], [], 0.0, 8.0, 2)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Display, LiveDisplay])
def test_counts_best_and_failures_are_shown(kind, plan, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with kind(plan, stream) as display:
        display.running(2)
        display.working("backbone", "abcdefgh", Progress(5, 10, loss=0.5, rate=99.7, seconds_left=9.1))
        display.outcome(plan.trials[0], outcome(plan.trials[0], 0.25))
        display.outcome(plan.trials[1], outcome(plan.trials[1], 0.75))
        display.outcome(
            plan.trials[2], outcome(plan.trials[2], error="Traceback\n  ...\nMemoryError: [too] big")
        )
        display.outcome(trial(9, searchable=False), outcome(trial(9), 0.99))
    shown = stream.getvalue()
    assert "mine: 4 trials (4 features); 0 done, 4 missing" in shown
    assert "failed: features trained, block 2, head linear: MemoryError: [too] big" in shown
    assert "step 5/10" in shown
    assert "75.0%" in shown
    assert "99.0%" not in shown
    assert (display.state.done, display.state.failed) == (3, 1)


def test_plain_lines_are_few(plan):
    stream = io.StringIO()
    with Display(plan, stream) as display:
        for _ in range(100):
            display.working("backbone", "abcdefgh", Progress(5, 10, loss=0.5))
        for _ in range(2):
            display.working("backbone", "abcdefgh", Progress(10, 10, loss=0.25))
    assert stream.getvalue().count("step 5/10") == 1
    assert stream.getvalue().count("backbone abcdef: step 10/10  loss 0.2500\n") == 2, (
        "the last is shown at once"
    )


def test_a_line_tells_of_stages_and_trials_and_of_the_time_once_only_trials_are_left(plan):
    display = Display(
        replace(plan, stages=[Stage("kind", Code("code", 1), {}) for _ in range(4)]), io.StringIO()
    )
    display.stage_made("dataset", "abcdefgh", 3.0)
    display.running(1)
    display.outcome(plan.trials[0], outcome(plan.trials[0], 0.25))
    assert display.state.line().startswith("stages 1/4 made; trials 1/4 done, 1 running, 0 failed; best")
    assert display.state.line().endswith("; ? left")
    display.stage_failed("backbone", "abcdefgh", "Traceback\nRuntimeError: no")
    display.given_up(2)
    assert display.state.line().startswith("stages 1/4 made, 2 failed; trials 1/4 done")
    display.stage_made("features", "abcdefgh", 3.0)
    display.running(1)
    for one in plan.trials[1:3]:
        assert display.state.left == "?"
        display.outcome(one, outcome(one, 0.25))
    assert display.state.line().startswith("trials 3/4 done, 1 running")
    assert display.state.left.endswith(" s")


def test_what_a_stage_reports_goes_when_it_is_made(plan):
    display = Display(plan, io.StringIO())
    display.working("backbone", "abcdefgh", Progress(5, 10))
    display.working("backbone", "abcdefzz", "waiting for another sweep that is making it")
    display.stage_made("backbone", "abcdefgh", 3.0)
    assert list(display.state.work) == [("backbone", "abcdefzz")], "keys that begin alike are told apart"


@pytest.mark.parametrize(
    ("update", "line"),
    [
        (
            Progress(5, 10, loss=0.5, rate=99.7, seconds_left=9.1),
            ": step 5/10  loss 0.5000  100 images/s  9 s left",
        ),
        (Progress(5, 5, networks=6, seconds_left=0.0), ": 6 networks  step 5/5  0 s left"),
        (Progress(8, 16, "samples", workers=4), " on 4 workers: samples 8/16"),
        ("waiting", ": waiting"),
    ],
)
def test_progress_is_one_line(update, line):
    assert working_line("kind", "abcdefgh", update) == f"kind abcdef{line}"
    assert working_line("kind", "", update) == f"kind{line}"
