"""Frequency trials: a timestep's ratio over whole maps, read as its features are, without labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_features import pick, trials_of
from tiny_models import PIXELS, save_dit

from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.core.stages import run
from harness.data.dataset import open_dataset
from harness.features.extract import images_of, open_denoiser
from harness.features.study import STUDY
from harness.metrics.frequencies import high_frequency_ratio
from harness.sweep import studies
from harness.training import noise

SETTINGS = {"timesteps": [0, 20, 50], "heads": ["linear", "ridge"], "controls": [], "batch": 25}


def frequencies_of(**settings):
    dataset, grid = trials_of(**{**SETTINGS, **settings})
    return dataset, grid, STUDY.auto.screens("frequency", grid)


def test_there_is_one_for_each_timestep_and_all_blocks_share_its_pass():
    _, grid, found = frequencies_of(shard=32)
    assert [one.axes["timestep"] for one in found] == [0, 20, 50]
    for one in found:
        assert (one.axes["features"], one.axes["block"], one.axes["head"], one.searchable) == (
            "frequency",
            None,
            None,
            False,
        )
        (stage,) = one.reads["frequencies"]
        assert stage.work.image_passes == 64
        assert stage.config["modules"] == sorted({trial.axes["block_name"] for trial in grid})


def test_a_row_holds_the_mean_ratio_of_the_maps_that_would_be_pooled(context):
    dataset, _, found = frequencies_of()
    trial = pick(found, timestep=20)
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    (row,) = outcome.tables["features"]
    studies.tables()["features"].filled([row])
    assert row["image_passes"] == 64
    assert row.get("validation_accuracy") is None
    (stage,) = trial.reads["frequencies"]
    index_N = images_of(stage, context)
    assert len(set(index_N)) == 64
    denoiser = open_denoiser(stage.needs["backbone"], context)
    x = torch.from_numpy(dataset.images[index_N]).float() / 127.5 - 1
    places = torch.tensor([[index, 20, 0] for index in index_N.tolist()])
    epsilon = noise.normal(derive_seed(0, "features"), places, (1, 8, 8))
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100), 0)
    noised = alphas[20].sqrt() * x + (1 - alphas[20]).sqrt() * epsilon
    maps = {}
    hooks = [
        denoiser.network.get_submodule(name).register_forward_hook(
            lambda module, given, output, name=name: maps.update(
                {name: output[0] if isinstance(output, tuple) else output}
            )
        )
        for name in stage.config["modules"]
    ]
    with torch.no_grad():
        denoiser.network(noised, torch.full((64,), 20))
    for hook in hooks:
        hook.remove()
    expected = np.mean([high_frequency_ratio(one.numpy()).mean() for one in maps.values()])
    assert row["high_frequency_ratio"] == pytest.approx(expected, rel=1e-4)


def test_more_heads_and_pools_are_the_same_measurement():
    _, _, found = frequencies_of()
    _, _, other = frequencies_of(heads=["ridge"], pools=[1])
    assert [one.key for one in found] == [one.key for one in other]
    _, _, fewer = frequencies_of(blocks=[5])
    assert not {one.key for one in found} & {one.key for one in fewer}


def test_features_that_are_not_kept_cannot_be_chosen_from():
    _, grid, _ = frequencies_of()
    streamed = [replace(trial, reads={"streamed": trial.reads["features"]}) for trial in grid]
    with pytest.raises(UserError, match=r"features\.caching=cached"):
        STUDY.auto.screens("frequency", streamed)


def test_a_pretrained_transformer_is_measured_in_parts_of_its_blocks_and_without_noise(context, tmp_path):
    backbone = {"name": "pretrained", "path": str(save_dit(tmp_path / "model"))}
    _, _, (trial,) = frequencies_of(
        data={"size": PIXELS, "channels": 3},
        backbone=backbone,
        blocks=[2],
        after=["query"],
        noise=["clean"],
        timesteps=[20],
        pools=[1],
    )
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    (row,) = outcome.tables["features"]
    (stage,) = trial.reads["frequencies"]
    denoiser = open_denoiser(stage.needs["backbone"], context)
    images = open_dataset(stage.needs["dataset"], context).images[images_of(stage, context)]
    queries = []
    denoiser.network.transformer_blocks[1].attn1.to_q.register_forward_hook(
        lambda module, given, output: queries.append(output)
    )
    with torch.no_grad():
        denoiser.run(
            denoiser.encode(torch.from_numpy(images).float() / 127.5 - 1), torch.full((len(images),), 20)
        )
    map_NCHW = queries[0].unflatten(1, (4, 4)).permute(0, 3, 1, 2).numpy()
    assert row["high_frequency_ratio"] == pytest.approx(high_frequency_ratio(map_NCHW).mean(), rel=1e-4)
