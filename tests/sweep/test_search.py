"""Optuna on a grid: different settings, a budget, answers from what is known."""

import math

import pytest

from harness.core.stages import Trial
from harness.sweep.plan import Search
from harness.sweep.search import GridSearcher

AXES = ("block", "timestep")


def candidates():
    return [
        Trial(
            "features",
            "features",
            "validation_accuracy",
            1,
            "x:y",
            {"block": b, "timestep": t},
            {},
            0,
            "d",
            "f",
        )
        for b in range(6)
        for t in (0, 10, 50, 100, 200)
    ]


def value(trial):
    return 1 - abs(trial.axes["block"] - 4) / 6 - abs(trial.axes["timestep"] - 50) / 400


def search(budget, known=()):
    trials = candidates()
    values = {trial.key: value(trial) for trial in trials if trial.key in known}
    return Search("features", AXES, trials, values, budget), {trial.key: trial for trial in trials}


def drive(searcher, by_key, at_once=3, fail=()):
    """Runs trials as Tune does, several at a time, and returns their keys in order."""
    running, seen, count = [], [], 0
    while True:
        config = searcher.suggest(str(count)) if len(running) < at_once else None
        if isinstance(config, dict):
            running.append((str(count), config["key"]))
            seen.append(config["key"])
            count += 1
            continue
        if not running:
            return seen
        name, key = running.pop(0)
        result = {"objective": math.nan if key in fail else value(by_key[key]), "training_iteration": 1}
        searcher.on_trial_complete(name, result)


@pytest.mark.parametrize("budget", [1, 12, 30])
def test_a_search_runs_as_many_different_settings_as_its_budget(budget):
    plan, by_key = search(budget)
    seen = drive(GridSearcher(plan, seed=0), by_key)
    assert len(seen) == len(set(seen)) == budget


def test_a_search_finds_the_peak_with_half_of_the_grid():
    plan, by_key = search(15)
    seen = drive(GridSearcher(plan, seed=0), by_key)
    best = max(seen, key=lambda key: value(by_key[key]))
    assert value(by_key[best]) >= sorted(value(trial) for trial in by_key.values())[-2]


def test_a_search_continues_without_running_what_is_known():
    plan, by_key = search(10)
    first = drive(GridSearcher(plan, seed=0), by_key, at_once=1)
    plan, by_key = search(5, known=set(first))
    second = drive(GridSearcher(plan, seed=0), by_key, at_once=1)
    assert not set(first) & set(second)
    whole, by_key = search(15)
    assert drive(GridSearcher(whole, seed=0), by_key, at_once=1) == first + second


def test_settings_that_fail_or_are_no_number_do_not_stop_a_search():
    plan, by_key = search(20)
    fail = {key for key, trial in by_key.items() if trial.axes["block"] < 3}
    assert len(drive(GridSearcher(plan, seed=0), by_key, fail=fail)) == 20
