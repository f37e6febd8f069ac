"""Stages and trials: named by what they depend on, made once, made again when damaged."""

import inspect
import pickle
import threading
from dataclasses import fields, replace
from pathlib import Path

import pytest

from harness.core import stages
from harness.core.artifacts import Damaged
from harness.core.progress import Progress
from harness.core.stages import Code, Stage, Trial, Work, failure, objective, run

HERE = Path(__file__).stem
made = []


def make(stage, folder, context):
    """A maker: notes that it ran, reads what it needs and writes two files."""
    made.append(stage.config["value"])
    below = [context.file(need, "value").read_text() for need in stage.needs.values()]
    (folder / "value").write_text(f"{stage.config['value']}{''.join(below)}")
    (folder / "deep").mkdir()
    (folder / "deep" / "more").write_text("more")
    for sibling in stage.siblings:
        if not context.has(sibling):
            place = folder.parent / sibling.key
            place.mkdir()
            (place / "value").write_text(sibling.config["value"])
            context.publish(sibling, place, 0.0)


def make_badly(stage, folder, context):
    (folder / "value").write_text("half")
    raise RuntimeError("no memory")


def rows(trial, context):
    return {
        "features": [{"validation_accuracy": 0.5, "test_accuracy": 0.25}],
        "correctness": [{"split": "test"}],
    }


def no_rows(trial, context):
    raise ZeroDivisionError("the cause")


@pytest.fixture(autouse=True)
def forget():
    made.clear()


def stage(value="a", **settings):
    given = {"kind": "kind", "code": Code("kind", 1, f"{HERE}:make"), "config": {"value": value}}
    return Stage(**{**given, **settings})


def trial(**settings):
    given = {
        "study": "features",
        "table": "features",
        "objective": "validation_accuracy",
        "code": Code("trial", 1, f"{HERE}:rows"),
        "axes": {"block": 3, "head": "linear"},
        "config": {"draws": 1},
        "seed": 0,
        "data": "digits",
        "data_fingerprint": "abc",
    }
    return Trial(**{**given, **settings})


IN_THE_KEY = {
    "kind": {"kind": "other"},
    "code": {"code": Code("kind", 2, f"{HERE}:make")},
    "config": {"config": {"value": "b"}},
    "part": {"part": {"images": [0, 8]}},
    "needs": {"needs": {"data": stage("below")}},
}
NOT_IN_THE_KEY = {
    "options": {"options": {"workers": 8}},
    "work": {"work": Work(5, 5.0)},
    "trains": {"trains": True},
    "local": {"local": True},
    "siblings": {"siblings": (stage("sibling"),)},
    "group": {"group": "together"},
    "parts": {"parts": (stage("part"),)},
    "note": {"note": "large"},
}


def test_every_field_of_a_stage_is_known_to_be_in_its_key_or_not():
    assert {field.name for field in fields(Stage)} == {*IN_THE_KEY, *NOT_IN_THE_KEY}


@pytest.mark.parametrize("change", IN_THE_KEY.values(), ids=IN_THE_KEY)
def test_what_a_stage_depends_on_changes_its_key(change):
    assert replace(stage(), **change).key != stage().key


@pytest.mark.parametrize("change", NOT_IN_THE_KEY.values(), ids=NOT_IN_THE_KEY)
def test_how_a_stage_is_made_does_not_change_its_key(change):
    assert replace(stage(), **change).key == stage().key


def test_a_stage_depends_on_every_stage_below():
    def on(value):
        return stage("top", needs={"middle": stage("middle", needs={"bottom": stage(value)})})

    assert on("x").key != on("y").key
    assert on("x").key == on("x").key


def test_a_stage_and_a_trial_keep_their_keys_between_processes():
    for one in (stage(needs={"data": stage("b")}), trial(needs={"data": stage("b")})):
        key = one.key
        assert pickle.loads(pickle.dumps(one)).key == key


@pytest.mark.parametrize(
    "change",
    [
        {"study": "weights"},
        {"code": Code("trial", 2, f"{HERE}:rows")},
        {"axes": {"block": 4, "head": "linear"}},
        {"config": {"draws": 2}},
        {"seed": 1},
        {"needs": {"data": stage("b")}},
        {"reads": {"features": (stage("b"),)}},
    ],
)
def test_what_a_trial_depends_on_changes_its_key(change):
    assert trial(**change).key != trial().key


@pytest.mark.parametrize(
    "change",
    [{"seconds": 9.0}, {"searchable": False}, {"data": "same images"}],
)
def test_how_a_trial_is_run_does_not_change_its_key(change):
    assert trial(**change).key == trial().key


def parts(*ends, pool=2):
    return tuple(stage("b", part={"images": [0, end], "pool": pool}) for end in ends)


def test_how_a_content_is_cut_changes_stages_and_no_trial():
    whole, halves, finer = parts(8), parts(4, 8), parts(8, pool=4)
    assert len({one.key for one in (*whole, *halves, *finer)}) == 3
    assert len({one.content for one in (*whole, *halves, *finer)}) == 1
    below = [trial(reads={"features": (stage("top", needs={"x": one}),)}).key for one in halves]
    assert len({trial(reads={"features": held}).key for held in (whole, halves, finer)}) == 1
    assert len(set(below)) == 1


def test_a_key_covers_the_code_that_code_uses():
    def using(version):
        noise = Code("noise", version)
        return stage(code=Code("kind", 1, f"{HERE}:make", uses=(Code("loop", 1, uses=(noise,)),)))

    assert using(1).key != using(2).key
    assert trial(needs={"x": using(1)}).key != trial(needs={"x": using(2)}).key
    moved = Code("kind", 1, "elsewhere:make")
    assert stage(code=moved).key == stage().key


def test_a_stage_is_made_once_with_all_below_it(context):
    below = stage("below")
    top, other = stage("top", needs={"x": below}), stage("other", needs={"x": below})
    for _ in range(2):
        assert context.file(top, "value").read_text() == "topbelow"
        assert context.file(other, "value").read_text() == "otherbelow"
    assert made == ["below", "top", "other"]


def test_an_artifact_says_what_made_it(context):
    below = stage("below")
    context.ensure(stage("top", needs={"x": below}, work=Work(7, 2.5)))
    manifest = context.store.manifest("kind", stage("top", needs={"x": below}).key)
    assert manifest["config"] == {"value": "top"}
    assert manifest["needs"] == {"x": below.key}
    assert (manifest["code"], manifest["image_passes"], manifest["guess"]) == (["kind", 1], 7, 2.5)
    assert manifest["provenance"] == {"run": "test-run"}
    assert manifest["seconds"] >= 0


def test_two_who_need_a_stage_at_the_same_time_make_it_once(context):
    others = [pickle.loads(pickle.dumps(context)) for _ in range(4)]
    threads = [threading.Thread(target=other.ensure, args=(stage(),)) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["a"]


def test_siblings_are_made_by_one_piece_of_work(context):
    bare = [stage(value) for value in "abc"]
    together = [
        replace(one, group="g", siblings=tuple(other for other in bare if other != one)) for one in bare
    ]
    assert len({one.job for one in together}) == 1
    for one in together:
        assert context.file(one, "value").read_text() == one.config["value"]
    assert made == ["a"]


def test_a_maker_that_fails_leaves_no_artifact(context):
    broken = stage(code=Code("kind", 1, f"{HERE}:make_badly"))
    with pytest.raises(RuntimeError, match="no memory"):
        context.ensure(broken)
    assert not context.has(broken)
    assert context.file(stage(), "value").read_text() == "a"


@pytest.mark.parametrize("content", [b"b", b"", b"aa"])
def test_a_damaged_artifact_is_made_again_never_read(context, content):
    context.ensure(stage())
    place = f"artifacts/kind/{stage().key}/value"
    context.store.storage.write(place, content)
    fresh = pickle.loads(pickle.dumps(context))
    assert fresh.file(stage(), "value").read_text() == "a"
    assert made == ["a", "a"]


@pytest.mark.parametrize("name", ["value", "manifest.json"])
def test_a_folder_with_a_damaged_file_is_made_again(context, name):
    context.ensure(stage())
    context.store.storage.write(f"artifacts/kind/{stage().key}/{name}", b"{")
    fresh = pickle.loads(pickle.dumps(context))
    folder = fresh.folder(stage())
    assert (folder / "value").read_text() == "a"
    assert (folder / "deep" / "more").read_text() == "more"


def test_a_file_that_is_never_made_is_reported_after_a_few_attempts(context):
    with pytest.raises(Damaged, match="nothing"):
        context.file(stage(), "nothing")
    assert len(made) == stages.MAKE_ATTEMPTS


def test_a_damaged_stage_below_is_made_again_for_who_reads_it(context):
    below = stage("below")
    context.ensure(below)
    context.store.storage.write(f"artifacts/kind/{below.key}/value", b"broken")
    fresh = pickle.loads(pickle.dumps(context))
    assert fresh.file(stage("top", needs={"x": below}), "value").read_text() == "topbelow"


def test_a_trial_ends_in_rows_with_the_columns_that_all_tables_share(context):
    outcome = run(trial(), context, "cpu test")
    assert not outcome.failed
    (row,), (correct,) = outcome.tables["features"], outcome.tables["correctness"]
    for each in (row, correct):
        assert {name: each[name] for name in ("key", "status", "error", "data", "seed", "device", "run")} == {
            "key": trial().key,
            "status": "ok",
            "error": None,
            "data": "digits",
            "seed": 0,
            "device": "cpu test",
            "run": "test-run",
        }
    assert (row["block"], row["head"], row["test_accuracy"]) == (3, "linear", 0.25)
    assert "block" not in correct
    assert objective(trial(), outcome) == 0.5


@pytest.mark.parametrize("runner", [f"{HERE}:no_rows", "not_a_module:run", f"{HERE}:not_there"])
def test_a_trial_that_fails_is_one_row_with_its_axes_and_the_traceback(context, runner):
    outcome = run(trial(code=Code("trial", 1, runner)), context, "cpu")
    assert outcome.failed
    assert list(outcome.tables) == ["features"]
    (row,) = outcome.tables["features"]
    assert row["status"] == "failed"
    assert row["error"].startswith("Traceback")
    assert (row["block"], row["head"]) == (3, "linear")
    assert objective(trial(), outcome) is None


def test_the_traceback_leads_to_the_line(context):
    error = run(trial(code=Code("trial", 1, f"{HERE}:no_rows")), context, "cpu").tables["features"][0][
        "error"
    ]
    line = inspect.getsourcelines(no_rows)[1] + 1
    assert "ZeroDivisionError: the cause" in error
    assert f"line {line}, in no_rows" in error


def test_a_trial_that_could_not_start_is_a_failed_row():
    outcome = failure(trial(), {"run": "r"}, "the worker died")
    assert outcome.failed
    assert outcome.tables["features"][0]["error"] == "the worker died"
    assert outcome.tables["features"][0]["block"] == 3


def test_progress_goes_to_the_display_where_there_is_one(context):
    lines = []
    context.progress("kind", "key", "nobody listens")
    context.say = lambda *update: lines.append(update)
    context.progress("kind", "key", Progress(1, 2))
    assert lines == [("kind", "key", Progress(1, 2))]
