"""Streamed ridge probes equal cached ones; the way is chosen, and refused, at plan time."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sklearn.linear_model import Ridge as SklearnRidge
from tiny_features import pick, trials_of

from harness.core.errors import UserError
from harness.core.stages import run
from harness.data.dataset import open_dataset
from harness.features.heads.head import Labelled, head_of
from harness.features.probe import read_features, samples_of
from harness.features.stages import Tap
from harness.features.streaming.caching import by_memory, recipe, sums_bytes
from harness.features.streaming.streamed_head import WEIGHTS
from harness.features.streaming.sums import RunningSums
from harness.models.backbones.unet import UNet
from harness.sweep import studies

RIDGE = {"heads": [{"name": "ridge", "strengths": [1e-3, 0.1, 10.0]}], "controls": []}


def row_of(trial, context):
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    for name, rows in outcome.tables.items():
        studies.tables()[name].filled(rows)
    return outcome.tables["features"][0]


def streamed_weights(trial, context):
    """Returns what was kept of the head of a trial: its weights, and how features are standardised."""
    (stage,) = trial.reads["streamed"]
    return load_file(context.file(stage, WEIGHTS))


@given(
    seed=st.integers(0, 99),
    channels=st.integers(1, 3),
    pools=st.sampled_from([(4, 1), (4, 2), (6, 3), (2, 2)]),
)
def test_the_sums_of_a_smaller_pool_follow_from_those_of_the_larger(seed, channels, pools):
    large, small = pools
    draw = torch.Generator().manual_seed(seed)
    x, labels = torch.randn(11, channels, large, large, generator=draw), np.arange(11) % 3
    sums = RunningSums(channels, large, 3, torch.device("cpu"))
    for part in (slice(0, 4), slice(4, 11)):
        sums.add(x[part], labels[part])
    pooled = torch.nn.functional.adaptive_avg_pool2d(x.double(), small).flatten(1).numpy()
    y = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    sums = sums.at(small)
    assert sums.n == 11
    for found, expected in (
        (sums.x_D, pooled.sum(0)),
        (sums.y_C, y.sum(0)),
        (sums.xx_DD, pooled.T @ pooled),
        (sums.xy_DC, pooled.T @ y),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_a_pool_that_does_not_nest_is_refused():
    with pytest.raises(ValueError, match="pool 3"):
        RunningSums(1, 4, 2, torch.device("cpu")).at(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"draws": 2},
        {"views": 3, "augment": {"crop": 0.7}},
        {"pools": [2, 3, 4]},
    ],
    ids=["plain", "draws", "views", "pools that do not nest"],
)
def test_streamed_ridge_is_cached_ridge(context, settings):
    given = {**RIDGE, "blocks": [2, 5], "timesteps": [50], **settings}
    if "pools" in settings:
        given["blocks"] = [2]
    dataset, cached = trials_of(**given, caching="cached")
    _, streamed = trials_of(**given, caching="streamed")
    assert not {trial.key for trial in cached} & {trial.key for trial in streamed}
    for trial, other in zip(cached, streamed, strict=True):
        one, two = row_of(trial, context), row_of(other, context)
        assert (one["caching"], two["caching"]) == ("cached", "streamed")
        for name in ("regularisation", "train_n", "dimensions", "parameter_count", "image_passes"):
            assert one[name] == two[name], name
        for name in ("validation_accuracy", "test_accuracy"):
            assert one[name] == pytest.approx(two[name], abs=1e-9), name
        samples = samples_of(trial, context, dataset)
        fitted = head_of(trial.config["head"]).fit(samples.train, samples.validation, 10, 0, "cpu")
        kept = streamed_weights(other, context)
        expected = fitted.module[1].weight.numpy()
        assert np.abs(kept["1.weight"] - expected).max() < 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(kept["1.bias"], fitted.module[1].bias.numpy(), atol=1e-4)


def test_streamed_ridge_is_scikit_learns(context):
    given = {**RIDGE, "blocks": [5], "timesteps": [50], "pools": [1, 2]}
    dataset, cached = trials_of(**given, caching="cached")
    _, streamed = trials_of(**given, caching="streamed")
    for trial, other in zip(cached, streamed, strict=True):
        row, kept = row_of(other, context), streamed_weights(other, context)
        x = read_features(trial, context, dataset)[0][:]
        train = Labelled(x[:40], dataset.labels[dataset.labelled(4)])
        x_ND = (train.x_ND.astype(np.float64) - train.x_ND.mean(0)) / train.x_ND.std(0)
        y = np.where(train.labels_N[:, None] == np.arange(10), 1.0, -1.0)
        model = SklearnRidge(alpha=row["regularisation"] * 40).fit(x_ND, y)
        assert np.abs(kept["1.weight"] - model.coef_).max() < 1e-4 * np.abs(model.coef_).max()
        scores = ((x[70:].reshape(40, -1) - kept["mean"]) / kept["scale"]) @ kept["1.weight"].T + kept[
            "1.bias"
        ]
        right = scores.argmax(1) == dataset.labels[dataset.splits["test"]]
        assert right.mean() == row["test_accuracy"]


def test_the_batch_changes_rounding_alone(context):
    weights = []
    for batch in (7, 64):
        _, (trial,) = trials_of(
            **RIDGE, caching="streamed", blocks=[5], timesteps=[50], pools=[2], batch=batch
        )
        (stage,) = trial.reads["streamed"]
        context.store.discard(stage.kind, stage.key)
        weights.append(streamed_weights(trial, context)["1.weight"])
    np.testing.assert_allclose(*weights, rtol=1e-4, atol=1e-6)
    assert not np.array_equal(*weights)


def test_one_stream_makes_all_blocks_and_pools_and_a_larger_grid_only_what_is_new(context):
    _, small = trials_of(**RIDGE, caching="streamed", timesteps=[50], blocks=[2], pools=[1])
    _, large = trials_of(**RIDGE, caching="streamed", timesteps=[50], blocks=[2, 5], pools=[1, 2])
    assert small[0].reads["streamed"][0].key in {trial.reads["streamed"][0].key for trial in large}
    context.ensure(large[0].reads["streamed"][0])
    assert all(context.has(trial.reads["streamed"][0]) for trial in large)
    assert {trial.reads["streamed"][0].work.image_passes for trial in large} == {40 + 30 + 40}
    assert len({trial.reads["streamed"][0].job for trial in large}) == 1


def test_pools_and_blocks_that_memory_does_not_hold_together_get_streams_of_their_own():
    _, trials = trials_of(**RIDGE, caching="streamed", timesteps=[50], blocks=[2, 5], pools=[4], batch=1)
    _, cut = trials_of(
        **RIDGE, caching="streamed", timesteps=[50], blocks=[2, 5], pools=[4], batch=1, memory_gb=0.004
    )
    assert len({trial.reads["streamed"][0].job for trial in trials}) == 1
    assert len({trial.reads["streamed"][0].job for trial in cut}) == 2
    assert [trial.key for trial in cut] == [trial.key for trial in trials]


@given(
    widths=st.lists(st.integers(1, 16), min_size=1, max_size=8),
    memory=st.integers(1_000_000, 50_000_000),
)
def test_every_group_fits_into_memory_or_a_tap_is_named(widths, memory):
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(16, 1)
    taps = [Tap(plan.blocks[1]._replace(number=n), pool) for n, pool in enumerate(widths)]
    try:
        groups, refusal = by_memory(taps, 3, 10, plan, 1, memory), ""
    except UserError as error:
        groups, refusal = [], str(error)
    if refusal:
        assert any(f"block {tap.block.number} at pool {tap.pool} " in refusal for tap in taps)
        assert any(sums_bytes([tap], 3, 10) > 0.5 * memory for tap in taps)
    else:
        assert [tap for group in groups for tap in group] == taps
        assert all(sums_bytes(group, 3, 10) < memory for group in groups)


def test_sums_that_do_not_fit_are_refused_with_what_would():
    with pytest.raises(UserError) as caught:
        trials_of(
            **RIDGE, caching="streamed", blocks=[1], pools=[1, 8], memory_gb=0.003, batch=1,
            backbone={"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1, "timesteps": 100},
        )  # fmt: skip
    text = str(caught.value)
    assert "features.memory_gb = 0.003: the sums of block 1 at pool 8 take about" in text
    assert "pools up to" in text


@pytest.mark.parametrize(
    ("settings", "streamed", "words"),
    [
        ({}, False, "cached (cached features take"),
        ({"store_gb": 1e-7}, True, "features.store_gb = 1e-07"),
        ({"caching": "cached", "store_gb": 1e-7}, False, "features.caching = cached"),
        ({"caching": "streamed"}, True, "features.caching = streamed"),
        ({"protocol": "published"}, True, "draws new noise and crops in every epoch"),
    ],
)
def test_the_way_is_chosen_by_what_a_cache_would_take_and_every_trial_says_why(settings, streamed, words):
    _, trials = trials_of(heads=["linear"], controls=["untrained"], **settings)
    for trial in trials:
        assert ("streamed" in trial.reads) == streamed
        assert words in trial.note
        assert trial.note.startswith("features of digits: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"protocol": "published", "caching": "cached"},
            ["features.caching = cached", "features.caching=auto"],
        ),
        (
            {"protocol": "published", "heads": ["ridge", "linear"]},
            ["head ridge cannot learn", "protocol=ours"],
        ),
        ({"caching": "streamed", "heads": ["knn"]}, ["head knn cannot learn from a stream", "ridge"]),
        ({"store_gb": 1e-7, "heads": ["linear", "knn"]}, ["features.store_gb = 1e-07", "head knn"]),
        ({"caching": "streamed", "heads": [{"name": "mlp", "train": {"clip": 1.0}}]}, ["mlp", "clip = 1.0"]),
        (
            {"caching": "streamed", "heads": [{"name": "mlp", "weight_decays": [0.1]}]},
            ["mlp", "weight_decays"],
        ),
        ({"caching": "streamed", "heads": ["linear"], "memory_gb": 1e-6}, ["features.memory_gb"]),
        ({"caching": "stream"}, ["features: caching", "did you mean 'streamed'?"]),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_anything_runs(settings, words):
    with pytest.raises(UserError) as caught:
        trials_of(**{"controls": [], **settings})
    for word in words:
        assert word in str(caught.value)


def test_the_published_protocol_has_its_own_keys_and_so_have_heads_that_learn_from_a_stream():
    keys = []
    for settings in ({"caching": "cached"}, {"caching": "streamed"}, {"protocol": "published"}):
        _, trials = trials_of(heads=["linear"], controls=[], **settings)
        keys.append({trial.key for trial in trials})
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


def test_the_published_recipe_is_the_papers():
    linear, attention = (head_of({"name": name}) for name in ("linear", "attention"))
    learns = recipe(linear, "published", 1_281_167)
    assert learns.optimizer == "sgd"
    assert (learns.momentum, learns.weight_decay, learns.batch, learns.clip) == (0.0, 0.0, 128, None)
    assert learns.steps == pytest.approx(28 * 1_281_167 / 128, abs=1)
    assert learns.steps / learns.decay_every == pytest.approx(4, abs=1e-3)
    assert (learns.learning_rate, learns.gamma) == (1e-2, 0.1)
    assert recipe(attention, "published", 1_281_167).learning_rate == 5e-2


def test_the_stage_of_a_streamed_probe_can_be_sent_to_a_worker_to_a_worker(context):
    dataset, trials = trials_of(**RIDGE, caching="streamed")
    stage = pick(trials, block=2, pool=1, timestep=50).reads["streamed"][0]
    there = dataclasses.replace(stage, config=json.loads(json.dumps(stage.config)))
    assert there.key == stage.key
    context.ensure(there)
    assert context.has(stage)
    assert open_dataset(stage.needs["dataset"], context).fingerprint == dataset.fingerprint
