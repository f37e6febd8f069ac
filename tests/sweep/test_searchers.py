"""Searchers on a grid: different settings, a budget, answers from what is known; studies that choose themselves."""

import math

import pytest

from harness.core.stages import Code, Trial
from harness.sweep.search_plan import Search
from harness.sweep.searchers import ChosenSearcher, GridSearcher, searcher_for

AXES = ("block", "timestep")


def candidates():
    return [
        Trial(
            "features",
            "features",
            "validation_accuracy",
            Code("probe", 1, "x:y"),
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


def search(budget, known=(), name="tpe", chooser=None):
    trials = candidates()
    values = {trial.key: value(trial) for trial in trials if trial.key in known}
    found = Search("features", name, AXES, trials, values, budget, trials, trials, chooser)
    return found, {trial.key: trial for trial in trials}


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


@pytest.mark.parametrize("name", ["random", "tpe"])
@pytest.mark.parametrize("budget", [1, 12, 30])
def test_a_search_runs_as_many_different_settings_as_its_budget(budget, name):
    plan, by_key = search(budget, name=name)
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


class Ladder:
    """A chooser that asks for the keys of one step, and of the next when all of the former are known."""

    def __init__(self, steps):
        self.steps = steps

    def next(self, known):
        return next((left for step in self.steps if (left := [key for key in step if key not in known])), [])

    def longest(self):
        return [key for step in self.steps for key in step]


def ladder():
    keys = [trial.key for trial in candidates()]
    return Ladder([keys[:5], keys[20:22], keys[9:12]])


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_a_study_that_chooses_is_asked_step_by_step(at_once):
    plan, by_key = search(10, chooser=ladder(), name="auto")
    seen = drive(searcher_for(plan, 0), by_key, at_once=at_once)
    assert seen == ladder().longest()


def test_a_step_waits_for_the_one_before_it():
    plan, _ = search(10, chooser=ladder(), name="auto")
    searcher = ChosenSearcher(plan)
    assert [searcher.suggest(str(count)) is None for count in range(6)] == [False] * 5 + [True]
    for count in range(4):
        searcher.on_trial_complete(str(count), {"objective": 0.5})
    assert searcher.suggest("6") is None
    searcher.on_trial_complete("4", error=True)
    assert searcher.suggest("7") == {"key": ladder().steps[1][0]}


def test_a_choice_continues_from_what_is_known_and_passes_over_what_cannot_be_run():
    known = ladder().longest()[:6]
    plan, by_key = search(10, known=known, chooser=ladder(), name="auto")
    gone = ladder().longest()[6]
    plan = plan._replace(candidates=[trial for trial in plan.candidates if trial.key != gone])
    assert drive(ChosenSearcher(plan), by_key) == ladder().longest()[7:]
