"""Generation compared with recognition: samplers against diffusers and closed forms, distances of what was drawn."""

import base64
import io

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.numpy import load_file
from tiny_features import DATA, FEATURES, family_unet_and_process, pick, trials_of

from harness.core.config import parse
from harness.core.errors import UserError
from harness.core.stages import run
from harness.core.tables import Role
from harness.data.config import DataConfig
from harness.data.dataset import Images, open_dataset
from harness.features import tables
from harness.features.generation import compare
from harness.features.generation.compare import encode, grid
from harness.features.generation.config import GenerationConfig
from harness.features.generation.sample import FILE, as_grey_levels, sample
from harness.features.generation.study import STUDY
from harness.models.backbones.denoiser import Denoiser, save_pipeline
from harness.models.noise_processes.variance_preserving import VariancePreserving
from harness.sweep import studies
from harness.sweep.experiment import load_experiment

SHAPE = (1, 8, 8)
GENERATION = {
    "backbone": FEATURES["backbone"],
    "train": FEATURES["train"],
    "steps": 3,
    "samples": 24,
    "encoders": ["pixels", {"name": "random", "widths": [8, 16], "size": 16}],
    "batch": 8,
}


def generation_of(seed=0, data=None, **generation):
    """Returns the data set and the trials of a small experiment."""
    data = parse(DataConfig, {**DATA, **(data or {})}, "data")
    config = parse(GenerationConfig, {**GENERATION, **generation}, "generation")
    images = Images.read(data, seed)
    return images.dataset, STUDY.trials(config, images, seed)


def row_of(trial, context):
    outcome = run(trial, context, "cpu")
    (row,) = outcome.tables["generation"]
    assert not outcome.failed, row["error"]
    assert len(studies.tables()["generation"].filled([row])) == 1
    return row


class Knowing:
    """A denoiser of data that is one image: it predicts the noise that is really there."""

    bound = 1.0
    device = torch.device("cpu")
    process = VariancePreserving({"num_train_timesteps": 100})
    alphas_cumprod_T = DDPMScheduler(num_train_timesteps=100).alphas_cumprod

    def __init__(self, image):
        self.image, self.given = image, []

    def encode(self, x):
        return x

    decode = encode

    def predict(self, z, t, estimate=None):
        self.given.append(None if estimate is None else estimate.clone())
        a = self.alphas_cumprod_T[t].view(-1, 1, 1, 1)
        return (z - a.sqrt() * self.image) / (1 - a).sqrt()


class Halving(Knowing):
    """The same on latents: the images at half the size, times 4."""

    bound = None

    def encode(self, x):
        return 4 * x[:, :, ::2, ::2]

    def decode(self, z):
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4


@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("kind", [Knowing, Halving])
def test_who_knows_the_data_samples_it(ancestral, steps, kind):
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = image if kind is Knowing else kind(None).decode(kind(None).encode(image))
    denoiser = kind(kind(None).encode(image))
    found = sample(denoiser, torch.arange(3), SHAPE, steps=steps, ancestral=ancestral, seed=0)
    torch.testing.assert_close(found, image.expand(3, -1, -1, -1), rtol=0, atol=1e-4)


def test_a_schedule_that_ends_without_signal_starts_where_there_is_some():
    denoiser = Knowing(torch.full((1, 1, 8, 8), 0.5))
    zero = {"num_train_timesteps": 100, "rescale_betas_zero_snr": True}
    denoiser.process = VariancePreserving(zero)
    denoiser.alphas_cumprod_T = DDPMScheduler(**zero).alphas_cumprod
    assert denoiser.alphas_cumprod_T[-1] == 0
    found = sample(denoiser, torch.arange(2), SHAPE, steps=3, ancestral=True, seed=0)
    torch.testing.assert_close(found, torch.full((2, 1, 8, 8), 0.5), rtol=0, atol=1e-4)


def test_each_step_is_given_the_estimate_of_the_one_before():
    denoiser = Knowing(torch.full((1, 1, 8, 8), 1.7))
    sample(denoiser, torch.arange(2), SHAPE, steps=4, ancestral=False, seed=0)
    assert denoiser.given[0] is None
    assert len(denoiser.given) == 4
    for estimate in denoiser.given[1:]:
        torch.testing.assert_close(estimate, torch.ones(2, 1, 8, 8)), "clipped"


@pytest.mark.parametrize("ancestral", [False, True])
def test_a_sample_does_not_depend_on_what_is_drawn_beside_it(ancestral):
    denoiser = Denoiser(*family_unet_and_process())
    settings = {"steps": 5, "ancestral": ancestral, "seed": 3}
    whole = sample(denoiser, torch.arange(7), SHAPE, **settings)
    assert len({tuple(one.flatten().tolist()) for one in whole}) == 7
    for numbers in ([6], [2, 0], [5, 4, 3, 2, 1, 0]):
        alone = sample(denoiser, torch.tensor(numbers), SHAPE, **settings)
        torch.testing.assert_close(alone, whole[numbers], rtol=0, atol=1e-4)
    other = sample(denoiser, torch.arange(7), SHAPE, **{**settings, "seed": 4})
    assert float((other - whole).abs().min(1).values.max()) > 1e-3


def test_images_become_grey_levels_again():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_grey_levels(levels / 127.5 - 1), levels)
    assert as_grey_levels(torch.tensor([-1.3, 1.2])).tolist() == [0, 255]


@pytest.mark.parametrize("cuts", [[], [1], [5, 6, 20]])
def test_what_is_kept_of_encoded_images_does_not_depend_on_batches(cuts, monkeypatch):
    monkeypatch.setattr(compare, "KERNEL_IMAGES", 10)
    images = np.random.default_rng(0).integers(0, 256, (25, 1, 3, 3), np.uint8)

    class Flat:
        def pooled(self, x):
            return x.flatten(1)

    kept = encode(np.split(images, cuts), compare._Encoder(Flat(), torch.device("cpu")))
    x = images.reshape(25, 9) / 127.5 - 1
    np.testing.assert_allclose(kept.moments.covariance_DD, np.cov(x.T), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(kept.vectors_ND, x[:10], atol=1e-6)


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_is_a_picture_of_the_samples(channels):
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 6), np.uint8)
    sheet = decoded(grid(images))
    assert sheet.shape == (2 * 41 - 1, 3 * 61 - 1, 3), "each pixel is a square of 10"
    for place, image in enumerate(images):
        top, left = (place // 3) * 41, (place % 3) * 61
        cell = sheet[top : top + 40, left : left + 60]
        larger = image.transpose(1, 2, 0).repeat(10, 0).repeat(10, 1)
        np.testing.assert_array_equal(cell, np.broadcast_to(larger, cell.shape))
    assert (sheet[41:, 122:] == 255).all(), "no sixth image"


def test_large_samples_are_made_smaller_and_one_is_a_grid_too():
    images = np.full((1, 3, 256, 128), 90, np.uint8)
    assert decoded(grid(images)).shape == (64, 32, 3)
    assert (decoded(grid(images)) == 90).all()


@pytest.mark.slow
def test_a_small_experiment_runs_from_plan_to_rows(context):
    dataset, trials = generation_of(regularisers=["none", "self_conditioning"], shard=8)
    assert [(trial.axes["regulariser"], trial.axes["encoder"]) for trial in trials] == [
        (None, "pixels"),
        (None, "random"),
        ("self_conditioning", "pixels"),
        ("self_conditioning", "random"),
    ]
    rows = {trial.key: row_of(trial, context) for trial in trials}
    assert len(rows) == 4
    for trial in trials:
        row = rows[trial.key]
        assert (row["samples"], row["real"], row["steps"], row["sampler"]) == (
            24,
            len(dataset.splits["train"]),
            3,
            "ddim",
        )
        assert row["frechet"] > 0
        assert row["frechet_real"] > 0
        assert row["kernel_deviation"] > 0
    first = trials[0]
    drawn = np.concatenate(
        [load_file(context.file(stage, FILE))["samples"] for stage in first.reads["samples"]]
    )
    assert drawn.shape == (24, 1, 8, 8)
    stored = open_dataset(first.needs["dataset"], context)
    real, held_out = (stored.images[stored.splits[name]] for name in ("train", "test"))
    row = rows[first.key]
    assert row["frechet"] == pytest.approx(by_eigenvalues(drawn, real), rel=1e-3)
    assert row["frechet_real"] == pytest.approx(by_eigenvalues(held_out[:24], real), rel=1e-3)
    sheet = decoded(row["grid"])
    np.testing.assert_array_equal(sheet[65:129:8, 65:129:8, 0], drawn[6, 0])
    assert row["grid"] != rows[trials[2].key]["grid"]


def by_eigenvalues(images, others):
    """The distance with tr (C1 C2)^½ from the eigenvalues of the product, which keep fewer digits."""
    x, y = (one.reshape(len(one), -1) / 127.5 - 1 for one in (images, others))
    a, b = np.cov(x.T), np.cov(y.T)
    overlap = np.sqrt(np.abs(np.linalg.eigvals(a @ b))).sum()
    return np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * overlap


@pytest.mark.slow
def test_samples_of_other_shards_and_batches_are_the_same_trials_and_the_same_images(context):
    settings = {"encoders": ["pixels"], "sampler": "ddpm"}
    (whole,), (cut,) = (
        generation_of(**settings, **how)[1] for how in ({"batch": 24}, {"shard": 7, "batch": 5})
    )
    assert whole.key == cut.key
    found = [
        np.concatenate([load_file(context.file(stage, FILE))["samples"] for stage in trial.reads["samples"]])
        for trial in (whole, cut)
    ]
    assert [len(trial.reads["samples"]) for trial in (whole, cut)] == [1, 3]
    assert np.abs(found[0].astype(int) - found[1]).max() <= 1


def test_other_values_are_other_trials():
    def keys(**generation):
        return {trial.key for trial in generation_of(**generation)[1]}

    same = keys()
    for other in ({"steps": 4}, {"sampler": "ddpm"}, {"samples": 20}, {"real": 50}, {"seed": 1}):
        assert not same & keys(**other)
    assert same < keys(regularisers=["none", "dispersive"])


def test_fewer_held_out_images_than_samples_are_no_reference(context):
    (trial,) = generation_of(samples=41, encoders=["pixels"], batch=41)[1]
    assert row_of(trial, context)["frechet_real"] is None
    (trial,) = generation_of(samples=None, encoders=["pixels"])[1]
    assert trial.axes["samples"] == 40, "as many as test images"
    assert "held_out" in trial.reads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 101}, "generation.steps = 101: the backbone has 100 timesteps"),
        ({"real": 10_000}, "generation.real = 10000: there are"),
        ({"encoders": ["pixels", "pixels"]}, "generation.encoders: 'pixels' is given twice"),
        ({"encoders": ["pixel"]}, "did you mean 'pixels'"),
        ({"sampler": "ddmp"}, "did you mean 'dd"),
        ({"samples": 1}, "samples"),
        ({"regularisers": ["dispersive", "dispersive"]}, "'dispersive' is given twice; give each a label"),
        ({"regularisers": ["none", "none"]}, "none is given twice"),
        ({"regularisers": ["dispersion"]}, "did you mean 'dispersive'"),
        ({"regularisers": [{"name": "dispersive", "block": 77}]}, "block 77: this backbone has"),
    ],
)
def test_what_cannot_be_drawn_is_refused_when_it_is_planned(settings, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        generation_of(**settings)


def test_a_trained_backbone_is_not_regularised_any_more(tmp_path):
    _, network, process = family_unet_and_process()
    save_pipeline(network, process, tmp_path / "given")
    given = {"backbone": {"name": "pretrained", "path": str(tmp_path / "given")}}
    assert generation_of(**given)[1]
    for trials in (generation_of, trials_of):
        with pytest.raises(UserError, match="this one is already trained"):
            trials(**given, regularisers=["none", "dispersive"])


@pytest.mark.parametrize("name", ["generation_small", "regularisers_small", "generation"])
def test_the_experiments_sample_the_backbones_that_they_probe(name):
    experiment = load_experiment(name, [])
    for shared in ("backbone", "train", "regularisers"):
        assert getattr(experiment.generation, shared) == getattr(experiment.features, shared)
    assert len(experiment.generation.regularisers) == (4 if name == "regularisers_small" else 1)


@pytest.mark.slow
def test_each_regulariser_trains_a_backbone_of_its_own_and_its_features_are_probed(context):
    chosen = ["none", {"name": "dispersive", "block": 5, "weight": 2.0}, "self_conditioning", "lsep"]
    trials = trials_of(
        regularisers=chosen,
        blocks=[5],
        timesteps=[10],
        pools=[1],
        train={"steps": 4, "batch": 8, "workers": 0},
    )[1]
    place = {"features": "trained", "block": 5}
    found = {}
    for name in (None, "dispersive", "self_conditioning", "lsep"):
        trial = pick(trials, **place, regulariser=name)
        outcome = run(trial, context, "cpu")
        assert not outcome.failed, outcome.tables["features"][0]["error"]
        assert outcome.tables["features"][0]["regulariser"] == name
        found[name] = trial.needs["backbone"]
    assert len({stage.key for stage in found.values()}) == 4
    assert found["dispersive"].config["regulariser"]["block"] == "mid_block"
    without = trials_of(blocks=[5], timesteps=[10], pools=[1], train={"steps": 4, "batch": 8, "workers": 0})[
        1
    ]
    assert pick(without, **place).needs["backbone"].key == found[None].key
    assert {trial.key for trial in without} < {trial.key for trial in trials}
    assert "regulariser" in tables.FEATURES.names(Role.SETUP)
