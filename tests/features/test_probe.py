"""Study 1 from plan to rows, in one process."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from tiny_features import FEATURES, pick, trials_of

from harness.core.errors import UserError
from harness.core.stages import Code, Stage, run
from harness.core.storage import Storage
from harness.core.tables import WHEN_AND_WHERE, Role
from harness.data.dataset import open_dataset
from harness.features import tables as declared
from harness.features.heads.head import Labelled
from harness.features.probe import read_features, samples_of, split
from harness.features.standardise import moments, standardised
from harness.features.study import STUDY
from harness.models.backbones.denoiser import load_denoiser, save_pipeline
from harness.models.backbones.family import build_network
from harness.models.backbones.unet import UNet
from harness.sweep import studies


def rows_of(trials, context):
    outcomes = [run(trial, context, "cpu") for trial in trials]
    for outcome in outcomes:
        assert not outcome.failed, outcome.tables["features"][0]["error"]
        for name, rows in outcome.tables.items():
            assert len(studies.tables()[name].filled(rows)) == len(rows)
    return {outcome.key: outcome.tables for outcome in outcomes}


def test_a_small_experiment_runs_from_plan_to_rows(context):
    dataset, trials = trials_of(heads=["linear", {"name": "mlp", "hidden": [8], "train": {"steps": 5}}])
    grid = 2 * 2 * 2 * 2
    assert len(trials) == grid + 2 * 2 * 2 + 2
    assert len({trial.key for trial in trials}) == len(trials)
    tables = rows_of(trials, context)
    channels = {block.number: block.channels for block in UNet(**FEATURES["backbone"]).plan(8, 1).blocks}
    for trial in trials:
        (row,), (correct,) = tables[trial.key]["features"], tables[trial.key]["correctness"]
        assert {name: row[name] for name in trial.axes} == dict(trial.axes)
        pooled = trial.axes["pool"] and channels[trial.axes["block"]] * trial.axes["pool"] ** 2
        assert row["dimensions"] == (pooled or 64)
        assert (row["train_n"], row["validation_accuracy_n"], row["test_accuracy_n"]) == (40, 30, 40)
        assert row["test_accuracy"] == correct["correct"].mean()
        assert len(correct["correct"]) == 40
        assert correct["kind"] == row["features"]
        assert row["test_accuracy_low"] <= row["test_accuracy"] <= row["test_accuracy_high"]
        assert (row["regularisation"] is None) == (row["head"] == "mlp")
        assert row["data_fingerprint"] == dataset.fingerprint
    assert {row["features"] for t in tables.values() for row in t["features"]} == {
        "trained",
        "untrained",
        "pixels",
    }


@pytest.mark.slow
def test_the_same_experiment_gives_the_same_rows(context, tmp_path):
    _, trials = trials_of(blocks=[5], timesteps=[50], pools=[1])
    elsewhere = replace(context, store=type(context.store)(Storage(str(tmp_path / "elsewhere"))))
    first, second = rows_of(trials, context), rows_of(trials, elsewhere)
    for key, tables in first.items():
        for name, rows in tables.items():
            kept = [column for column in rows[0] if column not in WHEN_AND_WHERE]
            for one, other in zip(rows, second[key][name], strict=True):
                for column in kept:
                    np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


@pytest.mark.slow
def test_an_object_store_gives_the_same_rows_as_a_disk(context, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    _, trials = trials_of(blocks=[5], timesteps=[50], pools=[1])
    remote = replace(context, store=type(context.store)(Storage("memory://probe")))
    first, second = rows_of(trials, context), rows_of(trials, remote)
    for key, tables in first.items():
        assert tables["features"][0]["test_accuracy"] == second[key]["features"][0]["test_accuracy"]
    kinds = {"dataset", "images", "digests", "backbone", "features"}
    assert set(remote.store.storage.names("artifacts")) == {*kinds, "checkpoint"}  # the last is empty
    remote.store.storage.remove("")


def test_pixels_are_probed_as_scikit_learn_would(context):
    dataset, trials = trials_of(blocks=[2], heads=[{"name": "linear", "strengths": [0.1]}])
    row = rows_of([pick(trials, features="pixels")], context).popitem()[1]["features"][0]
    train, test = dataset.labelled(4), dataset.splits["test"]
    x = dataset.images.reshape(len(dataset.images), -1) / 127.5 - 1
    mean, deviation = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(deviation > 1e-6, deviation, 1)
    model = LogisticRegression(C=1 / (0.1 * 40), max_iter=5000, tol=1e-8).fit(x[train], dataset.labels[train])
    assert row["test_accuracy"] == pytest.approx(model.score(x[test], dataset.labels[test]), abs=1.5 / 40)


def test_training_features_are_standardised_and_the_others_by_the_same_numbers():
    dataset, _ = trials_of()
    x = np.random.default_rng(0).normal(3, 7, (40 + 30 + 40, 5)).astype(np.float32)
    x[:, 2] = 1.5
    parts = split(x, x[:0], dataset, 4)
    found = moments(parts[0].x)
    train, validation, test = (Labelled(standardised(one.x, found)[:], one.labels_N) for one in parts)
    assert [len(part.labels_N) for part in (train, validation, test)] == [40, 30, 40]
    np.testing.assert_allclose(train.x_ND.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.x_ND.std(0), [1, 1, 0, 1, 1], atol=1e-4)
    expected = (x[40:70, 0] - x[:40, 0].mean()) / x[:40, 0].std()
    np.testing.assert_allclose(validation.x_ND[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert test.x_ND.dtype == np.float32
    np.testing.assert_array_equal(test.labels_N, dataset.labels[dataset.splits["test"]])


def test_smaller_pools_are_read_from_what_is_stored_for_larger_ones(context):
    dataset, trials = trials_of(blocks=[2], timesteps=[50], pools=[1, 2, 4], controls=[])
    assert len({trial.reads["features"][0].key for trial in trials}) == 1
    found = {trial.axes["pool"]: read_features(trial, context, dataset)[0][:] for trial in trials}
    alone = {
        pool: trials_of(blocks=[2], timesteps=[50], pools=[pool], controls=[])[1][0] for pool in (1, 2, 4)
    }
    for pool, trial in alone.items():
        alone_MCPP = read_features(trial, context, dataset)[0][:]
        np.testing.assert_allclose(alone_MCPP, found[pool], rtol=0, atol=1e-6)
        assert trial.key == pick(trials, pool=pool).key


def test_a_trial_reads_all_its_shards_in_their_order(context):
    settings = {"blocks": [2], "timesteps": [50], "pools": [2], "controls": []}
    dataset, (whole,) = trials_of(**settings)
    _, (cut,) = trials_of(**settings, shard=32)
    assert len(cut.reads["features"]) == 4
    one, other = (read_features(trial, context, dataset)[0][:] for trial in (whole, cut))
    np.testing.assert_array_equal(one, other)


def test_views_are_more_training_images_and_leave_the_others_alone(context):
    settings = {"blocks": [2], "timesteps": [50], "pools": [1], "controls": []}
    dataset, (plain,) = trials_of(**settings)
    _, (seen,) = trials_of(**settings, views=3, augment={"crop": 0.6})
    assert seen.key != plain.key
    assert seen.reads["features"] == plain.reads["features"]  # what is there already is not made again
    one, parts = (samples_of(trial, context, dataset) for trial in (plain, seen))
    x_40, views = (x[:] for x in read_features(seen, context, dataset))
    assert len(views) == 2 * 40
    train = parts.train
    assert [len(part.labels_N) for part in parts[:3]] == [3 * 40, 30, 40]
    np.testing.assert_array_equal(train.labels_N, np.tile(one.train.labels_N, 3))
    whole = np.concatenate([x_40[:40], views])
    np.testing.assert_allclose(train.x, (whole - whole.mean(0)) / whole.std(0), rtol=1e-3, atol=1e-4)
    first, second = views[:40], views[40:]
    assert not np.allclose(first, second)
    rows = rows_of([seen], context)
    assert rows[seen.key]["features"][0]["train_n"] == 120


def test_a_view_without_crops_is_another_draw_of_the_noise(context):
    settings = {"blocks": [2], "timesteps": [50], "pools": [1], "controls": []}
    dataset, (two,) = trials_of(**settings, draws=2)
    _, (views,) = trials_of(**settings, views=2)
    x, second = (one[:] for one in read_features(views, context, dataset))
    averaged = read_features(two, context, dataset)[0][:]
    np.testing.assert_allclose((x[:40] + second) / 2, averaged[:40], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"memory_gb": 1e-6}, "one batch of 32 images takes about .* set a larger limit"),
        ({"memory_gb": 2e-4}, r"set features.batch=\d+, or a larger limit"),
    ],
)
def test_memory_for_less_than_one_batch_is_refused_with_what_would_fit(features, message):
    with pytest.raises(UserError, match=message):
        trials_of(**features)


def test_the_batch_that_is_proposed_fits(context):
    with pytest.raises(UserError) as refused:
        trials_of(memory_gb=2e-4)
    batch = int(re.search(r"features.batch=(\d+)", str(refused.value))[1])
    _, trials = trials_of(memory_gb=2e-4, batch=batch)
    assert len(trials[0].reads["features"]) > 1
    with pytest.raises(UserError):
        trials_of(memory_gb=2e-4, batch=batch + 1)


def make_dataset(stage, folder, context):
    """Makes the data set of the configuration with its test images in another order, or with other labels."""
    dataset, _ = trials_of()
    labels, splits = dataset.labels.copy(), dict(dataset.splits)
    if stage.config["test"] == "shuffled":
        splits["test"] = splits["test"][::-1].copy()
    if stage.config["test"] == "relabelled":
        labels[splits["test"]] = (labels[splits["test"]] + 1) % 10
    save_file({"labels": labels, **splits}, folder / "index.safetensors")
    (folder / "classes.json").write_text(json.dumps(dataset.classes))


def test_nothing_is_chosen_on_test(context):
    _, trials = trials_of()
    pixels = pick(trials, features="pixels")
    images = pixels.needs["dataset"].parts
    rows = {}
    for test in ("as it is", "shuffled", "relabelled"):
        config = {"test": test, "fingerprint": test}
        stage = Stage("dataset", Code("dataset", 1, "test_probe:make_dataset"), config, parts=images)
        changed = replace(pixels, needs={"dataset": stage})
        assert len(open_dataset(stage, context).splits["test"]) == 40
        rows[test] = rows_of([changed], context).popitem()[1]
    plain, shuffled, relabelled = (rows[test]["features"][0] for test in rows)
    for row in (shuffled, relabelled):
        assert row["regularisation"] == plain["regularisation"]
        assert row["validation_accuracy"] == plain["validation_accuracy"]
    assert shuffled["test_accuracy"] == plain["test_accuracy"]
    assert relabelled["test_accuracy"] < 0.5 < plain["test_accuracy"]
    correct = [rows[test]["correctness"][0]["correct"] for test in ("as it is", "shuffled")]
    np.testing.assert_array_equal(correct[0], correct[1][::-1])


def test_an_untrained_control_has_the_weights_of_before_training(context):
    _, trials = trials_of(blocks=[5], timesteps=[50], pools=[1])
    stages = {kind: pick(trials, features=kind).needs["backbone"] for kind in ("trained", "untrained")}
    weights = {
        kind: load_denoiser(context.folder(stage)).network.state_dict() for kind, stage in stages.items()
    }
    assert not torch.equal(weights["trained"]["conv_in.weight"], weights["untrained"]["conv_in.weight"])
    assert torch.equal(weights["untrained"]["conv_in.bias"].isfinite(), torch.ones(8, dtype=torch.bool))
    assert stages["untrained"].work.image_passes == 0
    assert pick(trials, features="untrained").axes["timestep"] == 50


def test_a_pretrained_backbone_is_probed_without_training(context, tmp_path):
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1)
    torch.manual_seed(3)
    unet = build_network(plan.config)
    save_pipeline(unet, plan.process, tmp_path / "mine")
    given = {"name": "pretrained", "path": str(tmp_path / "mine")}
    _, trials = trials_of(backbone=given, blocks=[5], timesteps=[10], pools=[1], controls=[])
    stage = trials[0].needs["backbone"]
    assert (stage.trains, stage.local, stage.needs) == (False, True, {})
    rows_of(trials, context)
    denoiser = load_denoiser(context.folder(stage))
    copied, process = denoiser.network, denoiser.process
    assert torch.equal(copied.mid_block.resnets[0].conv1.weight, unet.mid_block.resnets[0].conv1.weight)
    assert process.timesteps == 1000


def test_what_only_changes_the_speed_changes_no_key():
    _, slow = trials_of()
    train = {**FEATURES["train"], "workers": 4, "checkpoint_every": 1}
    _, fast = trials_of(batch=8, train=train)
    assert [trial.key for trial in slow] == [trial.key for trial in fast]


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"steps": 3, "batch": 8}},
        {"backbone": {**FEATURES["backbone"], "block_out_channels": [8, 8]}},
        {"draws": 2},
        {"heads": [{"name": "linear", "strengths": [5.0]}]},
        {"seed": 1},
        {"data": {"labels_per_class": 5}},
        {"data": {"max_test": 39}},
    ],
)
def test_what_changes_a_number_changes_every_key(change):
    keys = [
        {trial.key for trial in trials_of(**settings)[1] if trial.axes["features"] == "trained"}
        for settings in ({}, change)
    ]
    assert not keys[0] & keys[1]


def test_a_larger_grid_keeps_the_trials_of_the_smaller():
    small = {trial.key for trial in trials_of()[1]}
    large = {trial.key for trial in trials_of(blocks="all", timesteps=[0, 10, 50], pools=[1, 2, 4][:2])[1]}
    assert small < large


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blocks": [99]}, ["99"]),
        ({"blocks": [0]}, ["0"]),
        ({"blocks": []}, ["blocks"]),
        ({"blocks": [2, 2]}, ["features.blocks", "2 is given twice"]),
        ({"timesteps": [100]}, ["features.timesteps", "100 is not between 0 and 99"]),
        ({"timesteps": [-1]}, ["features.timesteps", "-1"]),
        ({"timesteps": [5, 5]}, ["features.timesteps", "5 is given twice"]),
        ({"pools": [1, 5]}, ["features.pools", "5 is not between 1 and 4"]),
        ({"pools": [0]}, ["features.pools", "0"]),
        ({"pools": [1, 1]}, ["features.pools", "1 is given twice"]),
        ({"heads": ["linear", "linear"]}, ["heads", "linear", "twice", "label"]),
        (
            {"backbone": {"name": "unet", "block_out_channels": [8] * 5}},
            ["8 pixels cannot be halved 4 times"],
        ),
        ({"data": {"labels_per_class": 1000}}, ["labels_per_class = 1000"]),
    ],
)
def test_settings_that_the_backbone_or_the_data_does_not_have_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        trials_of(**settings)
    for word in words:
        assert word in str(caught.value)


def test_the_study_searches_over_its_axes_and_not_over_its_controls():
    _, trials = trials_of()
    assert STUDY.name == "features"
    for trial in trials:
        assert set(declared.FEATURES.names(Role.AXIS)) <= set(trial.axes)
        assert trial.searchable == (trial.axes["features"] == "trained")
        assert trial.objective in studies.tables()["features"].names(Role.METRIC)


@pytest.mark.slow
def test_another_data_set_is_probed_with_the_same_backbone(context):
    other = {"name": "digits", "label": "fewer", "labels_per_class": 3, "max_test": 20, "max_validation": 10}
    dataset, trials = trials_of(blocks=[5], timesteps=[50], pools=[1], transfer=[other])
    by_data = {name: [trial for trial in trials if trial.data == name] for name in ("digits", "fewer")}
    assert len(by_data["digits"]) == len(by_data["fewer"]) == 3
    first, second = (pick(found, features="trained") for found in by_data.values())
    assert first.needs["backbone"] == second.needs["backbone"]
    assert first.key != second.key
    tables = rows_of(trials, context)
    (row,) = tables[second.key]["features"]
    assert (row["data"], row["train_n"], row["test_accuracy_n"]) == ("fewer", 30, 20)
    assert (
        tables[first.key]["features"][0]["data_fingerprint"] == dataset.fingerprint != row["data_fingerprint"]
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"name": "digits"}, "'digits' is given twice; give each data set a label"),
        ({"name": "digits", "label": "large", "size": 16}, "large: images of 16 pixels and 1 channels"),
        ({"name": "folder", "path": "/nowhere"}, "/nowhere: does not exist"),
    ],
)
def test_a_data_set_that_cannot_be_transferred_to_is_refused(other, message):
    with pytest.raises(UserError, match=message):
        trials_of(transfer=[other])
