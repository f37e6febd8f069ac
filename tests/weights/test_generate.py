"""Generation: the codec, its gate, the diffusion model and its samples, each against something independent."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.numpy import load_file, save_file
from torch import nn

from harness.core.artifacts import ArtifactStore
from harness.core.config import parse
from harness.core.seeds import derive_seed
from harness.core.stages import Code, Context, Stage
from harness.core.storage import Storage
from harness.models.generators.latent_denoiser import LatentDenoiser
from harness.models.noise_processes.process import spaced
from harness.sweep.display import working_line
from harness.training.config import TrainConfig
from harness.training.loop import ProcessGroup, fit
from harness.training.tasks import Denoising
from harness.weights import generate
from harness.weights.config import WeightsConfig
from harness.weights.generate import (
    NotReconstructed,
    draws_seed,
    make_reconstruction,
    open_codec,
    originals_of,
    sample,
    sample_latents,
)
from harness.weights.layout import Layout

LAYOUT = Layout(("norm.weight", "norm.bias"), ((20,), (12,)))
CHECKPOINTS = 14
TINY = {
    "autoencoder": {
        "channels": [4, 4],
        "kernel": 3,
        "latent": 3,
        "train": {"steps": 20, "batch": 6, "ema": 0.5},
    },
    "diffusion": {
        "channels": [4, 8],
        "kernel": 3,
        "timesteps": 20,
        "train": {"steps": 6, "batch": 6, "ema": 0.9},
    },
    "generate": 6,
    "sampling_steps": 5,
}


def make_dataset(stage, folder, context):
    """Nothing reads it: predictions are made up."""


def make_checkpoints(stage, folder, context):
    """Checkpoints that differ in two directions, far from zero; every seventh is held out."""
    draw = np.random.default_rng(0)
    centre = draw.normal(size=LAYOUT.length) + np.repeat([3.0, -1.0], LAYOUT.sizes)
    vectors = centre + draw.normal(size=(CHECKPOINTS, 2)) @ draw.normal(size=(2, LAYOUT.length)) / 4
    arrays = {
        "vectors": vectors.astype(np.float32),
        "steps": np.arange(CHECKPOINTS) + 1,
        "trajectory": np.zeros(CHECKPOINTS, int),
        "held_out": (np.arange(CHECKPOINTS) % 7 == 3).astype(np.uint8),
    }
    save_file(arrays, folder / "vectors.safetensors")
    LAYOUT.save(folder / "layout.json")


def stages_of(k=12, run=0, gate=None, **values):
    """Returns the stages from checkpoints to generated networks of a small experiment."""
    config = parse(WeightsConfig, {**TINY, **values}, "weights")
    checkpoints = Stage("checkpoints", Code("checkpoints", 1, "test_generate:make_checkpoints"), {})
    dataset = Stage("dataset", Code("dataset", 1, "test_generate:make_dataset"), {})
    maker = "harness.weights.generate:make_"
    chosen = {"k": k, "subset": "first", "seed": 5, "generator": run}
    autoencoder = Stage(
        "autoencoder",
        Code("autoencoder", 1, maker + "autoencoder"),
        {**chosen, "autoencoder": config.autoencoder.keyed()},
        {"checkpoints": checkpoints},
        options={"train": config.autoencoder.train.model_dump(mode="json")},
    )
    reconstruction = Stage(
        "reconstruction",
        Code("reconstruction", 1, maker + "reconstruction"),
        {"gate": gate},
        {"dataset": dataset, "network": dataset, "checkpoints": checkpoints, "autoencoder": autoencoder},
    )
    denoiser = Stage(
        "denoiser",
        Code("denoiser", 1, maker + "denoiser"),
        {**autoencoder.config, "diffusion": config.diffusion.keyed()},
        {"checkpoints": checkpoints, "autoencoder": autoencoder},
        options={"train": config.diffusion.train.model_dump(mode="json")},
    )
    generated = Stage(
        "generated",
        Code("generated", 1, maker + "generated"),
        {
            **chosen,
            "generate": config.generate,
            "sampler": config.sampler,
            "sampling_steps": config.sampling_steps,
        },
        {"checkpoints": checkpoints, "autoencoder": autoencoder, "denoiser": denoiser},
    )
    return {
        "checkpoints": checkpoints,
        "autoencoder": autoencoder,
        "reconstruction": reconstruction,
        "denoiser": denoiser,
        "generated": generated,
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A context whose artifacts all tests here share."""
    store = ArtifactStore(Storage(str(tmp_path_factory.mktemp("results"))))
    return Context(store, {"run": "test-run"}, ray=False, accelerators=False)


def vectors_of(stage, context):
    return load_file(context.file(stage, "vectors.safetensors"))


def checkpoint_vectors(shop):
    return vectors_of(stages_of()["checkpoints"], shop)["vectors"]


# The codec


def test_originals_are_the_k_that_nothing_holds_out(shop):
    places, raw, _ = originals_of(stages_of(k=5)["autoencoder"], shop)
    assert places.tolist() == [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(raw, checkpoint_vectors(shop)[places])


def test_each_tensor_is_normalised_or_all_stay(shop):
    _, raw, scale = originals_of(stages_of()["autoencoder"], shop)
    for part in np.split(scale.normalise(raw), [20], axis=1):
        assert part.mean() == pytest.approx(0, abs=1e-5)
        assert part.std() == pytest.approx(1, abs=1e-5)
    plain = originals_of(
        stages_of(autoencoder={**TINY["autoencoder"], "normalise": "none"})["autoencoder"], shop
    )
    np.testing.assert_array_equal(plain[2].normalise(raw), raw)


def test_the_codec_is_the_autoencoder_around_the_normaliser_whatever_its_batches(shop):
    stage = stages_of()["autoencoder"]
    codec = open_codec(stage, shop)
    raw, scale = checkpoint_vectors(shop), originals_of(stage, shop)[2]
    with torch.no_grad():
        latents = codec.model.encode(torch.from_numpy(scale.normalise(raw)))
        decoded = scale.restore(codec.model.decode(latents).numpy())
    for at_once in (1, 4, 1000):
        cut = replace(codec, at_once=at_once)
        np.testing.assert_allclose(cut.encode(raw), latents, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cut.decode(latents.numpy()), decoded, rtol=1e-4, atol=1e-5)
        assert cut.encode(raw).dtype == cut.decode(latents.numpy()).dtype == np.float32
    assert not codec.model.training


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_the_moving_average_is_what_is_kept(part, context, monkeypatch):
    """`fit` is watched: the model that it ends with differs from its average, and the average is written."""
    from harness.training import launch

    ended = []

    def watched(*given):
        ended.append(fit(*given))
        return ended[-1]

    monkeypatch.setattr(launch, "fit", watched)
    kept = load_file(context.file(stages_of()[part], "model.safetensors"))
    for name, average in ended[-1].ema.named_parameters():
        np.testing.assert_array_equal(kept[name], average)
    learnt = ended[-1].model.state_dict()
    assert any(not np.array_equal(kept[name], value) for name, value in learnt.items())


@pytest.mark.parametrize("full", [False, True])
def test_a_full_batch_holds_all_k(full, context, monkeypatch):
    seen = {}

    def stop(factory, stage, config, seed, folder, shop):
        seen[stage.kind] = config.batch
        raise InterruptedError

    monkeypatch.setattr(generate, "train", stop)
    values = {name: {**TINY[name], "full_batch": full} for name in ("autoencoder", "diffusion")}
    stages = stages_of(k=9, **values)
    for kind, maker in (("autoencoder", generate.make_autoencoder), ("denoiser", generate.make_denoiser)):
        with pytest.raises(InterruptedError):
            maker(stages[kind], None, context)
    assert seen == dict.fromkeys(("autoencoder", "denoiser"), 9 if full else 6)


@pytest.mark.parametrize("edition", ["2024-02", "2024-12"])
def test_both_editions_go_from_checkpoints_to_networks(edition, shop):
    small = {"train": {"steps": 3, "batch": 6}}
    autoencoder = {"channels": [4, 4], "kernel": 5, **small}
    autoencoder |= {"decoder_channels": [8, 4]} if edition == "2024-02" else {"latent": 3}
    stages = stages_of(
        preset=edition, autoencoder=autoencoder, diffusion={"channels": [4], "timesteps": 9, **small}
    )
    made = vectors_of(stages["generated"], shop)["generated"]
    assert made.shape == (6, LAYOUT.length)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


# The gate


@pytest.fixture
def predictions(monkeypatch):
    """Networks near the originals' mean are right about 9 of 10 images; `seen` collects the vectors asked about."""
    seen = []
    labels = np.arange(40) % 4

    def predict(raw_NP, needs, context, splits):
        assert splits == ("validation",)
        assert {"dataset", "network", "checkpoints"} <= set(needs)
        seen.append(raw_NP)
        checkpoints = checkpoint_vectors(context)
        near_N = (
            np.abs(raw_NP - checkpoints.mean(0)).mean(1)
            < 2 * np.abs(checkpoints - checkpoints.mean(0)).mean()
        )
        wrong_M = np.arange(40) < 4
        return np.where(near_N[:, None] & ~wrong_M, labels, 3 - labels)

    class Images:
        splits = {"validation": np.arange(40), "test": np.arange(0)}

    Images.labels = labels
    monkeypatch.setattr(generate, "predict", predict)
    monkeypatch.setattr(generate, "open_dataset", lambda stage, context: Images)
    return seen


LEARNT = {**TINY["autoencoder"], "latent": 4, "train": {"steps": 150, "batch": 12, "learning_rate": 0.02}}
BROKEN = {**TINY["autoencoder"], "normalise": "none", "train": {"steps": 0}}


def test_an_autoencoder_that_reconstructs_passes_the_gate(shop, predictions):
    stage = stages_of(gate=0.1, autoencoder=LEARNT)["reconstruction"]
    made, checkpoints = vectors_of(stage, shop), checkpoint_vectors(shop)
    originals = checkpoints[made["places"]]
    assert made["reconstructed"].shape == (12, LAYOUT.length)
    error = (
        np.square(made["reconstructed"] - originals).mean() / np.square(originals - originals.mean(0)).mean()
    )
    assert error < 0.2
    measured = json.loads(shop.file(stage, "gate.json").read_text())
    assert measured == {"originals_median": 0.9, "reconstructed_median": 0.9, "networks": 12}


def test_at_most_16_evenly_spread_originals_are_evaluated(shop, predictions, monkeypatch):
    monkeypatch.setattr(generate, "GATE_NETWORKS", 4)
    stages = stages_of(gate=None)
    shop.file(stages["reconstruction"], "gate.json")
    originals = originals_of(stages["autoencoder"], shop)[1]
    np.testing.assert_array_equal(predictions[0][:4], originals[[0, 4, 7, 11]])
    assert len(predictions[0]) == 8


def test_an_autoencoder_that_does_not_is_stopped_unless_there_is_no_gate(shop, predictions, tmp_path):
    stage = stages_of(gate=0.1, autoencoder=BROKEN)["reconstruction"]
    words = r"reach 0\.000 on validation where the originals have 0\.900 \(medians of 12\).*gate: null"
    with pytest.raises(NotReconstructed, match=words):
        make_reconstruction(stage, tmp_path, shop)
    assert not list(tmp_path.iterdir())
    make_reconstruction(stages_of(gate=None, autoencoder=BROKEN)["reconstruction"], tmp_path, shop)
    assert json.loads((tmp_path / "gate.json").read_text())["reconstructed_median"] == 0.0


def test_what_is_not_finite_is_said_and_not_written(shop, monkeypatch, tmp_path):
    stages = stages_of()
    latents = sample(stages["generated"], shop)
    latents[[1, 4]] = np.nan
    monkeypatch.setattr(generate, "sample", lambda stage, context: latents)
    with pytest.raises(FloatingPointError, match="2 of 6 generated latents are not finite; lower"):
        generate.make_generated(stages["generated"], tmp_path, shop)
    assert not list(tmp_path.iterdir())


# Sampling


class Exact(nn.Module):
    """The best noise predictor of a Gaussian mixture, in closed form."""

    def __init__(self, alphas_T, weights_M, means_ML, deviation):
        super().__init__()
        self.alphas_T, self.weights_M, self.means_ML, self.deviation = (
            alphas_T,
            weights_M,
            means_ML,
            deviation,
        )

    def forward(self, x_NL, timesteps_N):
        a = self.alphas_T[timesteps_N[0]]
        variance = a * self.deviation**2 + 1 - a
        gaps_NML = x_NL[:, None] - a.sqrt() * self.means_ML
        shares_NM = (self.weights_M.log() - gaps_NML.square().sum(2) / (2 * variance)).softmax(1)
        return (1 - a).sqrt() * (shares_NM[..., None] * gaps_NML).sum(1) / variance


WEIGHTS_M = torch.tensor([0.25, 0.75])
MEANS_ML = torch.tensor([[2.0, -1.0], [-1.0, 0.5]])
DEVIATION = 0.3
MEAN_L = WEIGHTS_M @ MEANS_ML
SPREAD_LL = (
    torch.einsum("m,ma,mb->ab", WEIGHTS_M, MEANS_ML - MEAN_L, MEANS_ML - MEAN_L) + torch.eye(2) * DEVIATION**2
)


def schedule(timesteps):
    """Returns the noise process, and diffusers' cumulative products of it."""
    process = generate._process({"timesteps": timesteps})
    return process, DDPMScheduler.from_config(process.config).alphas_cumprod


def drawn(model, process, count=2000, **settings):
    known = {"steps": 100, "ancestral": True, "clip": False, "seed": 1, **settings}
    return sample_latents(model, process, torch.arange(count), 2, **known)


@pytest.mark.parametrize("timesteps", [20, 100, 500, 1000, 2000])
def test_schedules_of_every_length_take_the_same_way_from_data_to_noise(timesteps):
    published_T = DDPMScheduler(num_train_timesteps=1000).alphas_cumprod
    _, found_T = schedule(timesteps)
    assert len(found_T) == timesteps
    step = max(1, 1000 // timesteps)
    torch.testing.assert_close(
        found_T[max(1, timesteps // 1000) - 1 :: max(1, timesteps // 1000)],
        published_T[step - 1 :: step],
        rtol=1e-4,
        atol=0,
    )
    assert (found_T.diff() < 0).all()


@pytest.mark.parametrize(
    ("timesteps", "steps", "ancestral"), [(1000, 200, True), (1000, 100, False), (200, 200, True)]
)
def test_a_perfect_denoiser_gives_the_mixtures_mean_and_covariance(timesteps, steps, ancestral):
    process, alphas_T = schedule(timesteps)
    found = drawn(Exact(alphas_T, WEIGHTS_M, MEANS_ML, DEVIATION), process, steps=steps, ancestral=ancestral)
    torch.testing.assert_close(found.mean(0), MEAN_L, rtol=0, atol=0.15)
    torch.testing.assert_close(torch.cov(found.T), SPREAD_LL, rtol=0.15, atol=0.1)
    near = (found[:, None] - MEANS_ML).norm(dim=2).min(1).values
    assert (near < 4 * DEVIATION).float().mean() > 0.98, "nothing lies between the modes"


@pytest.mark.slow
def test_a_trained_diffusion_gives_the_mixtures_mean_and_covariance():
    draw = torch.Generator().manual_seed(0)
    kinds = torch.multinomial(WEIGHTS_M, 2000, replacement=True, generator=draw)
    examples = MEANS_ML[kinds] + DEVIATION * torch.randn(2000, 2, generator=draw)
    process = generate._process({"timesteps": 100})
    task = Denoising(lambda: LatentDenoiser(2, [16, 32], 3), examples, process)
    config = TrainConfig(steps=400, batch=128, learning_rate=5e-3, schedule="cosine", ema=0.98)
    model = fit(task, config, 0, ProcessGroup(torch.device("cpu"))).ema.eval()
    found = drawn(model, process)
    torch.testing.assert_close(found.mean(0), examples.mean(0), rtol=0, atol=0.2)
    torch.testing.assert_close(torch.cov(found.T), torch.cov(examples.T), rtol=0.2, atol=0.15)


def test_ddim_has_no_noise_but_the_first_and_ddpm_has():
    process, alphas_T = schedule(50)
    model = Exact(alphas_T, WEIGHTS_M, MEANS_ML, DEVIATION)
    first = generate.noise.normal(derive_seed(1, "generate"), torch.tensor([[3, 0, 0]]), (2,))
    again = first
    places = spaced(50, 10)
    for t, following in zip(places, [*places[1:], -1], strict=True):  # Song et al. 2021, equation 12, by hand
        a, b = alphas_T[t], alphas_T[following] if following >= 0 else torch.tensor(1.0)
        epsilon = model(again, torch.tensor([t]))
        again = b.sqrt() * (again - (1 - a).sqrt() * epsilon) / a.sqrt() + (1 - b).sqrt() * epsilon
    found = drawn(model, process, 5, steps=10, ancestral=False)
    torch.testing.assert_close(found[3:4], again, rtol=1e-4, atol=1e-4)
    assert torch.equal(found, drawn(model, process, 5, steps=10, ancestral=False))
    assert not torch.allclose(found, drawn(model, process, 5, steps=10), atol=1e-2)
    assert not torch.allclose(found, drawn(model, process, 5, steps=10, ancestral=False, seed=2), atol=1e-2)


def test_a_clipped_estimate_stays_within_1():
    process, alphas_T = schedule(50)
    model = Exact(alphas_T, torch.tensor([1.0]), torch.tensor([[4.0, -0.5]]), 0.01)
    assert drawn(model, process, 20, steps=50).mean(0).tolist() == pytest.approx([4.0, -0.5], abs=0.05)
    clipped = drawn(model, process, 20, steps=50, clip=True)
    assert clipped.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_network_i_is_the_same_however_many_are_drawn_and_in_whatever_batches(sampler, shop, monkeypatch):
    stage = stages_of(sampler=sampler)["generated"]
    whole = sample(stage, shop)
    assert len({tuple(row) for row in whole}) == 6
    monkeypatch.setitem(generate.NUMBERS_AT_ONCE, "cpu", 2 * 8 * 3)
    np.testing.assert_allclose(sample(stage, shop), whole, rtol=0, atol=1e-4)
    later = replace(stage, config={**stage.config, "first": 4, "generate": 5})
    np.testing.assert_allclose(sample(later, shop)[:2], whole[4:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("standardise", [True, False])
def test_the_diffusion_learns_standardised_latents_or_raw_ones(standardise, shop):
    stage = stages_of(diffusion={**TINY["diffusion"], "standardise": standardise})["denoiser"]
    known = generate._latents(stage, shop)
    raw = open_codec(stage.needs["autoencoder"], shop).encode(originals_of(stage, shop)[1])
    if standardise:
        np.testing.assert_allclose(known.latents_KL.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(known.latents_KL.std(0, correction=0), 1, atol=1e-4)
    else:
        np.testing.assert_array_equal(known.latents_KL, raw)
    np.testing.assert_allclose(known.latents_KL * known.deviation_L + known.mean_L, raw, rtol=1e-4, atol=1e-5)


def test_a_run_of_the_generator_has_its_own_draws_and_the_same_originals(shop):
    first, second = (stages_of(run=run) for run in (0, 1))
    assert draws_seed({"seed": 5, "generator": 0}) == 5
    seeds = [draws_seed({"seed": 5, "generator": run}) for run in range(50)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    np.testing.assert_array_equal(
        originals_of(first["autoencoder"], shop)[0], originals_of(second["autoencoder"], shop)[0]
    )
    for part, name in (("autoencoder", "up.0.weight"), ("denoiser", "out.weight")):
        one, other = (
            load_file(shop.file(stages[part], "model.safetensors"))[name] for stages in (first, second)
        )
        assert not np.array_equal(one, other)
    assert not np.allclose(sample(first["generated"], shop), sample(second["generated"], shop))


def test_training_and_sampling_say_what_they_count_and_the_time_left(context):
    lines = []
    context.say = lambda *update: lines.append(working_line(*update))
    context.file(stages_of()["generated"], "vectors.safetensors")
    for kind, words in (
        ("autoencoder", "networks/s"),
        ("denoiser", "networks/s"),
        ("generated", "6 networks  step 5/5  0 s left"),
    ):
        assert any(line.startswith(kind) and words in line for line in lines), lines
