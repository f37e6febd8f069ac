"""The study of CKA: its rows against features extracted and compared by hand, its passes, its errors."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.core import stages
from harness.core.config import parse
from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import Images, load
from harness.features.cka.config import CKAConfig
from harness.features.cka.study import STUDY
from harness.features.extract import extract, open_denoiser
from harness.models.encoders.encoder import Random, open_encoder
from harness.sweep import studies
from harness.sweep.plan import missing_stages
from harness.sweep.studies import STUDIES

CKA = {
    "backbone": {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1, "timesteps": 100},
    "train": {"steps": 2, "batch": 8, "workers": 0},
    "blocks": [2, 5, 8],
    "timesteps": [0, 50],
    "pools": [1, 2],
    "encoders": ["pixels", {"name": "random", "widths": [8, 16], "layers": "all"}],
    "others": {
        "wider": {"name": "unet", "block_out_channels": [16, 32], "layers_per_block": 1, "timesteps": 100}
    },
    "images": 12,
    "batch": 5,
}


def trials_of(seed=0, data=None, **cka):
    """Returns the data set and the trials of an experiment like the above, but for what is given."""
    config = parse(DataConfig, {"max_train": 40, "max_validation": 5, "max_test": 5, **(data or {})}, "data")
    images = Images.read(config, seed)
    return load(config, seed), STUDY.trials(parse(CKAConfig, {**CKA, **cka}, "cka"), images, seed)


def rows_of(trials, context):
    found = []
    for trial in trials:
        outcome = stages.run(trial, context, "cpu")
        assert not outcome.failed, outcome.tables["similarity"][0]["error"]
        assert stages.objective(trial, outcome) == outcome.tables["similarity"][0]["cka"]
        found += outcome.tables["similarity"]
    return found


def by_hand(x, y):
    """Unbiased CKA (Song et al. 2012, equation 5) with whole matrices."""

    def hsic(k, l):  # noqa: E741
        n = len(k)
        k, l = (one * (1 - np.eye(n)) for one in (k, l))  # noqa: E741
        ends = k.sum() * l.sum() / (n - 1) / (n - 2) - 2 / (n - 2) * (k @ l).sum()
        return ((k * l).sum() + ends) / n / (n - 3)

    x, y = (np.asarray(one.reshape(len(one), -1), np.float64) for one in (x, y))
    k, l = ((one - one.mean(0)) @ (one - one.mean(0)).T for one in (x, y))  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def features_by_hand(context, stage, dataset, timestep, pool):
    """Returns block number -> features of the first twelve training images."""
    denoiser = open_denoiser(stage, context)
    modules = {2: "down_blocks.0.resnets.0", 5: "mid_block", 8: "up_blocks.1.resnets.0"}
    found = extract(
        denoiser,
        dataset.images,
        dataset.splits["train"][:12],
        timestep=timestep,
        taps=[(name, pool) for name in modules.values()],
        draws=1,
        seed=0,
        batch=12,
    )
    return {number: found[name, pool] for number, name in modules.items()}


UNTRAINED = {"train": {"steps": 0, "workers": 0}}  # untrained weights compare as well


def side(row, name):
    return tuple(row[f"{name}_{column}"] for column in ("model", "block", "timestep", "pool"))


def test_rows_are_what_whole_matrices_give(context):
    dataset, trials = trials_of(**UNTRAINED)
    rows = rows_of(trials, context)
    of_network = {
        name: next(
            stage.needs["backbone"]
            for trial in trials
            for group in trial.config["groups"]
            for place in (*group["a"], *group["b"])
            if place["model"] == name and "block" in place
            for stage in trial.reads[place["reads"]]
        )
        for name in ("backbone", "wider")
    }
    known = {}
    for (name, stage), timestep, pool in itertools.product(of_network.items(), (0, 50), (1, 2)):
        for block, x in features_by_hand(context, stage, dataset, timestep, pool).items():
            known[name, block, timestep, pool] = x.numpy()
    images = torch.from_numpy(dataset.images[dataset.splits["train"][:12]]) / 127.5 - 1
    known["pixels", 0, None, None] = images.numpy()
    random = open_encoder(Random(widths=[8, 16]).stage(1), context, torch.device("cpu"))
    for place, x in enumerate(random.features(images).values()):
        known["random", place, None, None] = x.numpy()
    checked = Counter()
    for row in rows:
        a, b = side(row, "a"), side(row, "b")
        if "untrained" in (*a, *b):  # zero steps of training: the same network
            b = ("backbone", *b[1:])
        assert row["cka"] == pytest.approx(by_hand(known[a], known[b]), abs=2e-4)
        assert row["images"] == 12
        checked[row["b_model"]] += 1
    # blocks 3 pairs x 2 timesteps x 2 pools; timesteps 3 blocks x 2 pools; pools 3 blocks x 2 timesteps
    assert checked["backbone"] == 12 + 6 + 6
    assert checked["untrained"] == checked["wider"] == 9 * 4
    assert checked["pixels"] == 3 * 4
    assert checked["random"] == 3 * 4 * 4
    assert len({frozenset((side(row, "a"), side(row, "b"))) for row in rows}) == len(rows)
    assert len({trial.key for trial in trials}) == len(trials)
    studies.tables()["similarity"].filled([{**row, "schema_version": 1} for row in rows])


def test_a_timestep_costs_one_pass_whatever_is_compared(context):
    _, trials = trials_of(**UNTRAINED)
    missing = missing_stages(trials, context)
    counted = Counter(stage.kind for stage in missing)
    networks = 2  # without training the untrained control is the backbone itself
    assert counted == {
        "dataset": 1,
        "images": 1,
        "backbone": networks,
        "features": 2 * networks,
        "encoder": 2,
        "layers": 2,
    }
    passes = sum(stage.work.image_passes for stage in missing if stage.kind == "features")
    assert passes == 12 * 2 * networks


def test_cuts_do_not_change_keys_and_values_do():
    _, first = trials_of()
    for same in ({"batch": 7}, {"shard": 3}):
        _, again = trials_of(**same)
        assert [trial.key for trial in again] == [trial.key for trial in first]
    _, more = trials_of(timesteps=[0, 20, 50])
    keys = {trial.key for trial in more}
    apart = [trial for trial in first if trial.axes["a_timestep"] is None]  # all timesteps with each other
    assert {trial.key for trial in first} - keys == {trial.key for trial in apart}
    for other in ({"images": 13}, {"draws": 2}, {"train": {"steps": 3, "batch": 8, "workers": 0}}):
        _, changed = trials_of(**other)
        assert not {trial.key for trial in first} & {trial.key for trial in changed}


def test_shards_and_batches_change_rounding_only(context):
    _, trials = trials_of(**UNTRAINED)
    rows = rows_of(trials[:4], context)
    _, cut = trials_of(**UNTRAINED, batch=4, shard=4)
    fresh = replace(context, store=type(context.store)(context.store.storage))
    again = rows_of(cut[:4], fresh)
    assert [side(row, "a") + side(row, "b") for row in rows] == [
        side(row, "a") + side(row, "b") for row in again
    ]
    np.testing.assert_allclose([row["cka"] for row in again], [row["cka"] for row in rows], atol=1e-4)


def test_only_what_is_asked_for_is_compared():
    for name in ("blocks", "timesteps", "pools", "untrained", "encoders", "others"):
        _, trials = trials_of(against=[name])
        counts = {"blocks": 4, "timesteps": 6, "pools": 2, "untrained": 4, "encoders": 8, "others": 4}
        assert len(trials) == counts[name]
    _, trials = trials_of(blocks=[2], pools=[1], timesteps=[0], encoders=["pixels"], others={})
    assert Counter(trial.axes["b_model"] for trial in trials) == {"untrained": 1, "pixels": 1}


def test_all_training_images_where_there_are_fewer(context):
    _, trials = trials_of(**UNTRAINED, images=50_000, against=["blocks"])
    assert {row["images"] for row in rows_of(trials[:1], context)} == {40}


def test_a_constant_block_has_no_cka(context):
    """A row with a missing number, not a failure and not 0."""
    _, trials = trials_of(**UNTRAINED, against=["blocks"])
    for stage in trials[0].stages:
        context.ensure(stage)
    import safetensors.torch as st

    from harness.features.cka import compare

    real = st.load_file

    def without_variation(path, **options):
        found = real(path, **options)
        return {name: x * 0 if x.shape[1] == 16 else x for name, x in found.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "load_file", without_variation)
        outcome = stages.run(trials[0], context, "cpu")
    rows = type(outcome).from_json(outcome.to_json()).tables["similarity"]
    assert not outcome.failed
    assert [row["cka"] is None for row in rows] == [True, False, True]  # block 5 has 16 channels


class TestBadInput:
    """Each is one line, at plan time."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"images": 3}, "cka: images = 3: Input should be greater than or equal to 4"),
            ({"data": {"max_train": 3}}, "cka: 3 training images; unbiased CKA needs at least 4"),
            ({"timesteps": [0, 100]}, "cka.timesteps: 100 is not between 0 and 99"),
            ({"timesteps": [5, 5]}, "cka.timesteps: 5 is given twice"),
            ({"pools": [9]}, "cka.pools: 9 is not between 1 and 4, the size of block 5's feature map"),
            ({"pools": [1, 1]}, "cka.pools: 1 is given twice"),
            ({"blocks": [1, 40]}, "block 40: this backbone has blocks 1 to 9"),
            ({"encoders": ["pixels", "pixels"]}, "'pixels' is given twice; give each a label of its own"),
            (
                {"encoders": [{"name": "pixels", "label": "wider"}]},
                "'wider' is given twice; give each a label",
            ),
            ({"encoders": ["pixel"]}, "unknown encoder 'pixel'; did you mean 'pixels'?"),
            (
                {"encoders": [{"name": "random", "layers": ["layer.7"]}]},
                "unknown layer of encoder 'random' 'layer.7'; did you mean 'layer.",
            ),
            (
                {"encoders": [{"name": "pretrained", "path": "/no/such"}]},
                "encoder.path '/no/such': no such folder; give one that save_pretrained wrote",
            ),
            ({"against": ["encoders"], "encoders": []}, "cka.against: encoders leaves nothing to compare"),
            ({"against": ["block"]}, "did you mean 'blocks'?"),
            (
                {"others": {"wider": {"name": "unet", "block_out_channels": [8, 16], "timesteps": 20}}},
                "cka.timesteps of wider: 50 is not between 0 and 19",
            ),
        ],
    )
    def test_one_line(self, settings, message):
        with pytest.raises(UserError) as caught:
            trials_of(**settings)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_study_is_found_and_shares_the_backbone():
    assert STUDIES.load("cka") is STUDY
    assert STUDY.shared.section == "features"
    assert {"backbone", "train"} <= set(STUDY.shared.fields) <= set(CKAConfig.model_fields)


def test_a_block_that_is_not_finite_fails_its_own_rows_alone(context):
    _, trials = trials_of(**UNTRAINED, against=["blocks"])
    for stage in trials[0].stages:
        context.ensure(stage)
    import safetensors.torch as st

    from harness.features.cka import compare

    real, spoilt = st.load_file, []

    def with_one_infinity(path, **options):
        found = real(path, **options)
        if found["features"].shape[1] == 16:
            spoilt.append(path)
            found["features"][3, 0, 0, 0] = torch.inf
        return found

    sound = stages.run(trials[0], context, "cpu").tables["similarity"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "load_file", with_one_infinity)
        outcome = stages.run(trials[0], context, "cpu")
    rows = outcome.tables["similarity"]
    assert outcome.failed
    assert spoilt
    assert len(rows) == len(sound)
    wrong = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(wrong) < len(rows)
    assert all(row["cka"] is None and "are not finite" in row["error"] for row in wrong)
    for row, before in zip(rows, sound, strict=True):
        if row["status"] == "ok":
            assert row["cka"] == pytest.approx(before["cka"], abs=1e-9)


def test_another_backbone_is_compared_at_its_own_step_of_the_same_noise_level():
    shorter = {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1, "timesteps": 50}
    levels = [{"fraction": 0.1}, {"fraction": 0.5}]
    _, trials = trials_of(timesteps=levels, pools=[1], against=["others"], others={"shorter": shorter})
    compared = {
        (a["timestep"], b["timestep"])
        for trial in trials
        for group in trial.config["groups"]
        for a, b in itertools.product(group["a"], group["b"])
    }
    assert compared == {(10, 5), (50, 25)}


def test_a_block_that_another_backbone_lacks_is_refused_with_the_name_of_that_backbone():
    flat = {"name": "unet", "block_out_channels": [8], "layers_per_block": 1, "timesteps": 100}
    with pytest.raises(UserError, match=r"^cka\.others\.flat: block 8: this backbone has blocks 1 to \d$"):
        trials_of(against=["others"], others={"flat": flat})
