"""What a sweep shows, on a terminal and elsewhere."""

import io

import pytest

from harness.core.rows import Outcome
from harness.core.stages import Code, Trial
from harness.sweep.display import Display, LiveDisplay
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
        display.trials_begin()
        display.running(2)
        display.working("backbone abc", "step 5/10  loss 0.5  100 images/s  0 s left")
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
        display.trials_begin()
        for _ in range(100):
            display.working("backbone abc", "step 5/10  loss 0.5  100 images/s  9 s left")
    assert stream.getvalue().count("step 5/10") == 1
