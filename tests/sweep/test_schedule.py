"""What can be done next: stages depth-first, trials when their stages exist, searches when theirs do."""

import pytest
from ray.tune.search import Searcher

from harness.core.stages import Code, Stage, Trial
from harness.sweep.balance import room
from harness.sweep.cluster import Capacity
from harness.sweep.plan import missing_stages
from harness.sweep.schedule import Schedule
from harness.sweep.search_plan import Search
from harness.sweep.tuning import ReadyTrials

CODE = Code("code", 1, "x:y")


class Nothing:
    """A context in which nothing exists."""

    class Store:
        def prefetch(self, wanted):
            return None

    store = Store()

    def has(self, stage):
        return False


def stage(name, *needs):
    return Stage("kind", CODE, {"name": name}, {one.config["name"]: one for one in needs})


def trial(name, *stages):
    return Trial(
        "features",
        "features",
        "validation_accuracy",
        CODE,
        {"name": name},
        {},
        0,
        "d",
        "f",
        reads={"all": stages},
    )


def names(found):
    return [one.axes["name"] if isinstance(one, Trial) else one.config["name"] for one in found]


def schedule_of(trials, searches=(), searcher=None):
    """Returns a schedule in which nothing exists, and what it says of trials that are unable to run."""
    unable = []
    wanted = [*trials, *(trial for search in searches for trial in search.candidates)]
    schedule = Schedule(
        trials,
        missing_stages(wanted, Nothing()),
        searches,
        searcher=searcher,
        unable=lambda trial, error: unable.append((trial.axes["name"], error)),
    )
    return schedule, unable


def drive(schedule, fail=()):
    """Does what is next, one thing after the other, and returns it in order."""
    done = []
    while True:
        if (trial := schedule.next_trial()) is not None:
            done.append(trial)
            schedule.ended(trial, 0.5)
        elif (stage := schedule.next_stage()) is not None:
            done.append(stage)
            schedule.failed(stage, "why") if stage.config["name"] in fail else schedule.made(stage)
        else:
            return names(done)


def grid():
    """Two timesteps of two shards each, read by two heads, and a trial that reads the data alone."""
    data = stage("data")
    backbone = stage("backbone", data)
    shards = {t: [stage(f"shard {t}{part}", backbone, data) for part in "ab"] for t in (0, 1)}
    cells = [trial(f"{head} {t}", data, backbone, *shards[t]) for t in (0, 1) for head in ("linear", "mlp")]
    return [*cells, trial("pixels", data)]


def test_what_the_first_trials_need_is_made_first_and_trials_run_in_between():
    schedule, _ = schedule_of(grid())
    assert drive(schedule) == [
        "data",
        "pixels",
        "backbone",
        "shard 0a",
        "shard 0b",
        "linear 0",
        "mlp 0",
        "shard 1a",
        "shard 1b",
        "linear 1",
        "mlp 1",
    ]
    assert schedule.finished


def test_stages_that_run_in_parallel_are_handed_out_in_the_same_order():
    schedule, _ = schedule_of(grid())
    schedule.made(schedule.next_stage())
    backbone = schedule.next_stage()
    assert schedule.next_stage() is None, "shards need the backbone"
    schedule.made(backbone)
    assert schedule.stages_ready == 4
    shards = [schedule.next_stage() for _ in range(4)]
    assert names(shards) == ["shard 0a", "shard 0b", "shard 1a", "shard 1b"]
    schedule.again(shards[2])
    schedule.again(shards[1])
    assert names([schedule.next_stage(), schedule.next_stage()]) == ["shard 0b", "shard 1a"]


def test_a_trial_that_can_start_later_does_not_hold_up_others():
    schedule, _ = schedule_of(grid())
    for _ in range(2):
        schedule.made(schedule.next_stage())
    shards = [schedule.next_stage() for _ in range(4)]
    for shard in shards[2:]:
        schedule.made(shard)
    assert names([schedule.next_trial() for _ in range(3)]) == ["linear 1", "mlp 1", "pixels"]
    assert schedule.next_trial() is None
    for shard in shards[:2]:
        schedule.made(shard)
    assert names([schedule.next_trial() for _ in range(2)]) == ["linear 0", "mlp 0"]
    assert schedule.running == 5
    assert not schedule.finished


def test_a_failed_stage_fails_its_trials_at_once_and_no_others():
    schedule, unable = schedule_of(grid())
    assert drive(schedule, fail=["shard 0a"]) == [
        "data",
        "pixels",
        "backbone",
        "shard 0a",
        "shard 0b",
        "shard 1a",
        "shard 1b",
        "linear 1",
        "mlp 1",
    ]
    assert unable == [("linear 0", "why"), ("mlp 0", "why")]
    assert schedule.finished


def test_what_needs_a_failed_stage_is_not_made():
    schedule, unable = schedule_of(grid())
    schedule.made(schedule.next_stage())
    assert schedule.failed(schedule.next_stage(), "why") == 5
    assert names([schedule.next_trial()]) == ["pixels"]
    assert sorted(unable) == [(f"{head} {t}", "why") for head in ("linear", "mlp") for t in (0, 1)]
    assert schedule.next_stage() is None


class InTurn:
    """A searcher that asks for one candidate after the other, each when the one before has ended."""

    def __init__(self, search):
        self.left = [trial.key for trial in search.candidates if trial.key not in search.known]
        self.budget, self.running, self.told = search.budget, 0, []

    def suggest(self, name):
        if self.running:
            return None
        if not self.left or not self.budget:
            return Searcher.FINISHED
        self.running, self.budget = 1, self.budget - 1
        return {"key": self.left.pop(0)}

    def on_trial_complete(self, name, result):
        self.running = 0
        self.told.append(result["objective"])


def search_of(candidates, budget):
    return Search("features", "tpe", ("name",), candidates, {}, budget, candidates, candidates)


def test_a_search_begins_when_its_stages_exist_and_loses_what_cannot_run():
    data, other = stage("data"), stage("other")
    bad = stage("bad", data)
    candidates = [trial("one", data), trial("two", bad), trial("three", stage("good", data))]
    made = []

    def searcher(search):
        made.append(InTurn(search))
        return made[-1]

    schedule, unable = schedule_of([trial("grid", other)], [search_of(candidates, 3)], searcher)
    found = drive(schedule, fail=["bad"])
    assert found == ["other", "grid", "data", "bad", "good", "one", "three"]
    assert unable == [("two", "why")]
    assert made[0].told == [0.5, 0.5]
    assert schedule.finished


def test_a_search_that_waits_for_its_trial_does_not_keep_others_from_running():
    searches = [search_of([trial(f"{name}{number}") for number in range(2)], 2) for name in "ab"]
    schedule, _ = schedule_of([], searches, InTurn)
    running = [schedule.next_trial() for _ in range(2)]
    assert names(running) == ["a0", "b0"]
    assert schedule.next_trial() is None
    assert schedule.trials_ready, "when one of them ends"
    schedule.ended(running[1], None)
    assert names([schedule.next_trial()]) == ["b1"]


def test_tune_is_given_nothing_while_nothing_is_ready_or_there_is_no_room():
    schedule, _ = schedule_of(grid())
    most = [1]
    searcher = ReadyTrials(schedule, lambda: most[0])
    assert searcher.suggest("0") is None
    schedule.made(schedule.next_stage())
    assert searcher.suggest("1") == {"key": grid()[-1].key}
    schedule.made(schedule.next_stage())
    for _ in range(4):
        schedule.made(schedule.next_stage())
    assert searcher.suggest("2") is None, "one runs"
    searcher.on_trial_complete("1", {"objective": 0.5})
    assert searcher.suggest("3") == {"key": grid()[0].key}
    assert searcher.suggest("4") is None
    most[0] = 2
    assert searcher.suggest("5") == {"key": grid()[1].key}


@pytest.mark.parametrize("gpus", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("stages", [0, 1, 2, 100])
def test_there_is_always_room_for_a_stage_and_a_trial(slots, gpus, stages):
    found = room(Capacity(slots, gpus), stages)
    assert found.trials >= 1
    if not stages:
        assert found.trials > slots, "an autoscaler sees what waits"
        return
    assert found.stages > min(slots, gpus or slots), "an autoscaler sees what waits"
    if slots > 1:
        assert found.trials <= slots - min(stages, slots // 2), "trials leave CPUs to stages"
    if gpus:
        assert found.trials <= gpus, "and a place on each GPU"
