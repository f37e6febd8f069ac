"""Heads read features in batches where memory is too small for all, with the same rows; or the plan refuses them."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_features import pick, trials_of

from harness.core.errors import UserError
from harness.core.stages import run
from harness.core.tables import WHEN_AND_WHERE
from harness.features import lazy
from harness.features.heads.head import HEADS, Head, Labelled, head_of
from harness.features.heads.knn import KNN
from harness.features.heads.linear import Linear
from harness.features.heads.mlp import MLP
from harness.features.heads.ridge import Ridge
from harness.features.memory import Setting, read_in_batches
from harness.features.study import STUDY

STEPS = {"steps": 6, "batch": 16}
HEADS_OF_ALL_KINDS = [
    "ridge",
    {"name": "linear", "strengths": [1e-2, 1.0]},
    {"name": "mlp", "hidden": [8], "train": STEPS, "weight_decays": [0.0, 0.1]},
    {"name": "cnn", "widths": [8], "train": STEPS},
    {"name": "attention", "blocks": 1, "width": 8, "attention_heads": 2, "train": {**STEPS, "warmup": 0}},
]
ONE = {"blocks": [5], "timesteps": [50], "pools": [2], "controls": ["pixels"]}
IMAGENET = Setting("block 33 at pool 8", 1_281_167, 60_000, 1024 * 64, 1000)


def in_batches(trial):
    """Returns a trial that has memory for what its head works with alone."""
    setting = trial.options["setting"]
    working = head_of(trial.config["head"]).working_bytes(setting.train, setting.dimensions, setting.classes)
    return replace(trial, options={**trial.options, "memory": working})


def tables_of(trial, context):
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    return {name: rows[0] for name, rows in outcome.tables.items()}


@pytest.mark.slow
def test_rows_are_the_same_in_memory_and_in_batches(context, monkeypatch):
    monkeypatch.setattr(lazy, "BATCH_ROWS", 16)
    extra = {"views": 2, "combined": [{"blocks": [2, 5], "timesteps": [50], "pool": 2, "head": "ridge"}]}
    _, trials = trials_of(**ONE, **extra, heads=HEADS_OF_ALL_KINDS)
    assert len(trials) == 2 * len(HEADS_OF_ALL_KINDS) + 1
    for trial in trials:
        whole, read = tables_of(trial, context), tables_of(in_batches(trial), context)
        readings = [tables["features"].pop("reading") for tables in (whole, read)]
        assert readings == ["in memory", "in batches"]
        assert in_batches(trial).key == trial.key
        for name, row in whole.items():
            for column in set(row) - {*WHEN_AND_WHERE, "fit_seconds"}:
                np.testing.assert_array_equal(read[name][column], row[column], err_msg=column)


def test_a_screen_is_the_same_in_memory_and_in_batches(context, monkeypatch):
    monkeypatch.setattr(lazy, "BATCH_ROWS", 16)
    _, trials = trials_of(**{**ONE, "controls": [], "timesteps": [0, 20, 50]}, heads=["ridge"])
    screen = STUDY.auto.screens("screening", trials)[0]
    assert screen.options["setting"][1:3] == (screen.config["images"], 0)
    whole, read = tables_of(screen, context)["features"], tables_of(in_batches(screen), context)["features"]
    assert (whole["reading"], read["reading"]) == ("in memory", "in batches")
    for column in ("validation_accuracy", "regularisation", "constant_share"):
        assert whole[column] == read[column]


def test_the_plan_says_what_is_read_in_batches():
    heads = [{"name": "mlp", "hidden": [8], "train": STEPS}]
    _, trials = trials_of(**ONE, heads=heads)
    (note,) = {trial.note for trial in trials if trial.axes["features"] == "trained"}
    assert note.startswith("features of digits: cached (")
    assert pick(trials, features="pixels").note == ""
    setting = pick(trials, features="pixels").options["setting"]
    assert setting == ("pixels", 40, 30 + 40, 64, 10)
    _, little = trials_of(**{**ONE, "pools": [1, 4]}, heads=heads, memory_gb=3e-5, batch=1)
    notes = {trial.axes["pool"]: trial.note for trial in little}
    assert pick(little, features="pixels").key == pick(trials, features="pixels").key
    assert notes[None] == "features of pixels: read in batches, 2.82e-05 GB"
    assert "batches" not in notes[1]
    assert notes[4] == f"{notes[1]}; features of block 5 at pool 4: read in batches, 0.000113 GB"


def test_what_fits_is_read_at_once_and_what_does_not_in_batches():
    fits = IMAGENET._replace(dimensions=1024)
    assert not read_in_batches(MLP(), fits, 6e9)
    assert read_in_batches(MLP(), fits, 5e9)
    assert read_in_batches(Ridge(), fits, 5e9)
    assert read_in_batches(Linear(), fits, 5e9)
    assert read_in_batches(MLP(), IMAGENET, 4e9)
    assert read_in_batches(Ridge(), IMAGENET, 200e9)
    assert read_in_batches(Linear(), IMAGENET, 200e9)
    assert not read_in_batches(KNN(), fits, 11e9)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (Ridge(label="mine"), ["memory_gb = 4: head mine on block 33 at pool 8", "174 GB", "65536 features"]),
        (Linear(), ["head linear", "190 GB to solve", "or a head trained by gradient descent"]),
        (KNN(), ["head knn", "all features at once, about 687 GB", "set a larger limit", "smaller pools"]),
    ],
)
def test_what_fits_in_no_way_is_refused_with_what_to_do(head, words):
    with pytest.raises(UserError) as refused:
        read_in_batches(head, IMAGENET, 4e9)
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_head_that_reads_nothing_in_batches_is_given_arrays(context, monkeypatch):
    given = []

    class Kept(KNN):
        def fit(self, train: Labelled, validation: Labelled, *others):
            given.extend([train.x, validation.x])
            return super().fit(train, validation, *others)

    assert not Head.in_batches
    monkeypatch.setattr(HEADS, "load", lambda name: Kept)
    _, trials = trials_of(**ONE, heads=["knn"])
    tables_of(pick(trials, features="pixels"), context)
    assert [type(x) for x in given] == [np.ndarray] * 2
