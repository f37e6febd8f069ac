"""Heads on several blocks and timesteps: what they read, what their rows say."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_features import pick, trials_of

from harness.core.errors import UserError
from harness.core.stages import run
from harness.data.dataset import open_dataset
from harness.features.probe import image_passes, read_features
from harness.features.stages import Tap
from harness.models.backbones.unet import UNet
from harness.sweep import studies

QUICK = {
    "name": "difformer",
    "blocks": 1,
    "width": 8,
    "attention_heads": 2,
    "train": {"steps": 25, "warmup": 0},
}
PAIR = {"blocks": [2, 5], "timesteps": [0, 50], "pool": 2, "head": QUICK}


def combined(trials):
    return [trial for trial in trials if trial.axes["features"] == "combined"]


def test_a_combined_trial_reads_what_the_grid_reads():
    _, trials = trials_of(combined=[PAIR])
    (one,) = combined(trials)
    grid = {
        stage.key
        for trial in trials
        if trial.axes["features"] == "trained"
        for stage in trial.reads["features"]
    }
    assert {stage.key for shards in one.reads.values() for stage in shards} == grid
    assert one.needs == pick(trials, features="trained", block=2, timestep=0, pool=1).needs
    passes = {t: pick(trials, features="trained", block=2, timestep=t, pool=1) for t in (0, 50)}
    assert image_passes(one) == sum(map(image_passes, passes.values()))
    assert not one.searchable


def test_what_the_grid_does_not_have_comes_from_the_same_pass():
    _, alone = trials_of(timesteps=[50], blocks=[2], pools=[1], controls=[])
    entry = {**PAIR, "timesteps": [50, 70], "pool": 2}
    _, trials = trials_of(timesteps=[50], blocks=[2], pools=[1], controls=[], combined=[entry])
    probe, one = trials
    assert probe.key == alone[0].key
    assert [stage.key for stage in probe.reads["features"]] == [s.key for s in alone[0].reads["features"]]
    jobs = {stage.job for shards in one.reads.values() for stage in shards}
    assert probe.reads["features"][0].job in jobs
    assert len(jobs) == 2
    siblings = {stage.key for stage in probe.reads["features"][0].siblings}
    assert {one.reads["features 0"][0].key, one.reads["features 1"][0].key} == siblings


AXES = {"features": "trained", "pool": 2}


@pytest.mark.parametrize("views", [1, 3])
def test_the_parts_follow_each_other_along_the_channels(context, views):
    dataset, trials = trials_of(combined=[PAIR], views=views)
    (one,) = combined(trials)
    found = [x[:] for x in read_features(one, context, dataset)]
    parts = [
        [x[:] for x in read_features(pick(trials, **AXES, block=block, timestep=timestep), context, dataset)]
        for timestep in (0, 50)
        for block in (2, 5)
    ]
    for place in (0, 1):
        np.testing.assert_array_equal(found[place], np.concatenate([part[place] for part in parts], 1))
    assert len(found[1]) == 40 * (views - 1)
    assert one.config["head"]["parts"] == [part[0].shape[1] for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("head", [QUICK, "ridge"])
def test_a_combined_head_gives_one_row(context, head):
    _, trials = trials_of(combined=[{**PAIR, "head": head}])
    (one,) = combined(trials)
    outcome = run(one, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    (row,) = outcome.tables["features"]
    assert len(studies.tables()["features"].filled([row])) == 1
    assert (row["features"], row["block"], row["timestep"]) == ("combined", None, None)
    assert (row["block_name"], row["pool"], row["backbone"]) == ("2+5 at t 0+50", 2, "unet")
    assert row["head"] == (head if isinstance(head, str) else "difformer")
    channels = {block.number: block.channels for block in trials_plan().blocks}
    assert row["dimensions"] == 2 * (channels[2] + channels[5]) * 4
    assert row["test_accuracy_n"] == len(open_dataset(one.needs["dataset"], context).splits["test"])


def trials_plan():
    return UNet(block_out_channels=[8, 16], layers_per_block=1, timesteps=100).plan(8, 1)


def test_an_entry_is_known_by_its_blocks_timesteps_pool_and_head():
    entries = [
        PAIR,
        {**PAIR, "pool": 1},
        {**PAIR, "blocks": [2]},
        {**PAIR, "timesteps": [50]},
        {**PAIR, "head": {**QUICK, "label": "wide", "width": 16}},
        {**PAIR, "head": "linear"},
    ]
    _, trials = trials_of(combined=entries)
    found = combined(trials)
    assert len({trial.key for trial in found}) == len(entries)
    assert {trial.axes["head"] for trial in found} == {"difformer", "wide", "linear"}
    without = {trial.key for trial in trials_of()[1]}
    assert without == {trial.key for trial in trials} - {trial.key for trial in found}


def test_blocks_and_noise_levels_go_by_their_names_too():
    named = {**PAIR, "blocks": ["mid", "conv_in"], "timesteps": [{"fraction": 0.5}]}
    numbered = {**PAIR, "blocks": [trials_middle(), 1], "timesteps": [50]}
    one, other = (combined(trials_of(combined=[entry])[1])[0] for entry in (named, numbered))
    assert one.key == other.key
    assert one.axes["block_name"] == f"{trials_middle()}+1 at t 50"


def trials_middle():
    return next(block.number for block in trials_plan().blocks if block.name == "mid_block")


def test_beside_a_streamed_grid_only_what_is_combined_is_stored():
    _, trials = trials_of(
        caching="streamed", heads=["ridge"], controls=[], combined=[{**PAIR, "timesteps": [50]}]
    )
    (one,) = combined(trials)
    held = [stage for shards in one.reads.values() for stage in shards]
    assert {stage.kind for stage in held} == {"features"}
    assert {len(stage.siblings) for stage in held} == {1}


def test_the_order_of_the_parts_is_part_of_the_key():
    keys = {
        combined(trials_of(combined=[{**PAIR, **change}])[1])[0].key
        for change in ({}, {"blocks": [5, 2]}, {"timesteps": [50, 0]})
    }
    assert len(keys) == 3


def test_a_larger_stored_pool_is_read_where_the_grid_has_one():
    _, trials = trials_of(pools=[1, 4], combined=[{**PAIR, "blocks": [2]}])
    (one,) = combined(trials)
    block = trials_plan().find(2)
    assert Tap(block, one.reads["features 0"][0].part["pool"]) == Tap(block, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": [2, 99]}, ["99"]),
        ({"blocks": [2, 2]}, ["features.combined.0.blocks", "2 is given twice"]),
        ({"blocks": []}, ["blocks"]),
        ({"timesteps": [100]}, ["features.combined.0.timesteps", "100", "99"]),
        ({"timesteps": [5, 5]}, ["timesteps", "5 is given twice"]),
        ({"pool": 5}, ["features.combined.0.pool = 5", "larger than 4", "block 5"]),
        ({"pool": 0}, ["pool"]),
        ({"head": "diformer"}, ["did you mean 'difformer'?"]),
    ],
)
def test_bad_entries_are_refused(change, words):
    with pytest.raises(UserError) as caught:
        trials_of(combined=[{**PAIR, **change}])
    for word in words:
        assert word in str(caught.value)


def test_the_same_entry_twice_is_refused():
    with pytest.raises(UserError, match="given twice; give each head a label"):
        trials_of(combined=[PAIR, {**PAIR, "head": {**QUICK, "width": 16}}])


def test_labelled_heads_are_probed_side_by_side(context):
    heads = [{"name": "ridge"}, {"name": "ridge", "strengths": [1e6], "label": "strong"}]
    _, trials = trials_of(blocks=[2], timesteps=[50], pools=[2], controls=[], heads=heads)
    rows = {}
    for trial in trials:
        (row,) = run(trial, context, "cpu").tables["features"]
        rows[row["head"]] = row
    assert set(rows) == {"ridge", "strong"}
    assert rows["strong"]["regularisation"] == 1e6
    assert rows["ridge"]["regularisation"] < 1e6


def test_a_label_changes_the_key_of_its_trial_alone():
    one, other = (
        trials_of(blocks=[2], timesteps=[50], pools=[2], controls=[], heads=[head])[1][0]
        for head in ("ridge", {"name": "ridge", "label": "mine"})
    )
    assert one.key != other.key
    assert replace(other, axes=one.axes).key == one.key
