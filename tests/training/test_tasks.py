"""What is learnt: each loss against its formula written by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from harness.core.seeds import derive_seed
from harness.core.stages import Code, Stage
from harness.data.transforms import as_input
from harness.models.noise_processes.process import process_of
from harness.training import checkpoint, noise
from harness.training.config import TrainConfig
from harness.training.launch import train
from harness.training.randomness import StepRandomness
from harness.training.tasks import Autoencoding, Classification, Denoising

SEED, STEP = 11, 4
POSITIONS = torch.tensor([0, 1, 2, 5])
RANDOMNESS = StepRandomness(SEED, STEP, POSITIONS)
ADDRESSES = torch.tensor([[position, STEP, 0] for position in POSITIONS])


def test_draws_belong_to_seed_name_step_and_position():
    like = torch.zeros(4, 3, 2)
    expected = noise.normal(derive_seed(SEED, "noise"), ADDRESSES, (3, 2))
    assert torch.equal(RANDOMNESS.normal("noise", like), expected)
    for other in (
        StepRandomness(SEED + 1, STEP, POSITIONS),
        StepRandomness(SEED, STEP + 1, POSITIONS),
        StepRandomness(SEED, STEP, POSITIONS + 9),
    ):
        assert not torch.equal(other.normal("noise", like), expected)
    assert not torch.equal(RANDOMNESS.normal("else", like), expected)
    assert torch.equal(
        RANDOMNESS.integers("level", 50), noise.integers(derive_seed(SEED, "level"), ADDRESSES, 50)
    )


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_denoising_is_the_mean_square_of_the_noise_not_found(schedule):
    process = process_of({"num_train_timesteps": 100, "beta_schedule": schedule})
    images = torch.randint(
        0, 256, (9, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    index = torch.tensor([7, 0, 3, 3])

    def model(x, t):
        return SimpleNamespace(sample=0.3 * x + t[:, None, None, None] / 100)

    found = Denoising(nn.Identity, images, process).loss(model, index, RANDOMNESS)

    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, 100)
    else:
        bar = np.cos((np.arange(101) / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    kept = np.cumprod(1 - betas)
    levels = noise.integers(derive_seed(SEED, "timestep"), ADDRESSES, 100).numpy()
    epsilon = noise.normal(derive_seed(SEED, "noise"), ADDRESSES, (1, 4, 4)).double().numpy()
    for place in range(4):
        x = images[index[place]].double().numpy() / 127.5 - 1
        alpha = kept[levels[place]]
        noised = np.sqrt(alpha) * x + np.sqrt(1 - alpha) * epsilon[place]
        predicted = 0.3 * noised + levels[place] / 100
        assert float(found[place]) == pytest.approx(np.mean((predicted - epsilon[place]) ** 2), rel=1e-4)
    assert len(set(levels)) > 1, "each sample has a timestep of its own"


def test_denoising_takes_vectors_and_plain_outputs_and_leaves_learnt_variances_out():
    process = process_of({"num_train_timesteps": 10})
    latents = torch.randn(5, 6)
    index = torch.tensor([0, 1, 2, 4])
    plain = Denoising(nn.Identity, latents, process).loss(lambda x, t: torch.zeros_like(x), index, RANDOMNESS)
    expected = noise.normal(derive_seed(SEED, "noise"), ADDRESSES, (6,)).square().mean(1)
    torch.testing.assert_close(plain, expected)
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    twice = Denoising(nn.Identity, images, process).loss(
        lambda x, t: torch.cat([torch.zeros_like(x), 99 + x], 1), index, RANDOMNESS
    )
    torch.testing.assert_close(
        twice, noise.normal(derive_seed(SEED, "noise"), ADDRESSES, (4,)).square().mean(1)
    )


def test_classification_is_cross_entropy():
    images = torch.randint(
        0, 256, (9, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(9) % 3
    weights = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([8, 0, 4, 4])
    task = Classification(nn.Identity, images, labels)
    found = task.loss(lambda x: x.flatten(1).double() @ weights, index, RANDOMNESS)
    logits = (images[index].double().flatten(1).numpy() / 127.5 - 1) @ weights.numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels[index]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert task.examples == 9


@pytest.mark.parametrize("mixed", [False, True])
def test_autoencoding_adds_or_mixes_both_noises_and_compares_with_the_clean_vector(mixed):
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([5, 1, 2, 3])
    seen = {}

    def model(x, latent_noise, latent_kept):
        seen.update(x=x, latent_noise=latent_noise, latent_kept=latent_kept)
        return vectors[index] + 1 + 0.1 * epsilon

    epsilon = noise.normal(derive_seed(SEED, "parameters"), ADDRESSES, (5,))
    found = Autoencoding(nn.Identity, vectors, 0.1, 0.5, 3, mixed).loss(model, index, RANDOMNESS)
    torch.testing.assert_close(seen["x"], (0.9 if mixed else 1.0) * vectors[index] + 0.1 * epsilon)
    assert seen["latent_kept"] == (0.5 if mixed else 1.0)
    torch.testing.assert_close(
        seen["latent_noise"], 0.5 * noise.normal(derive_seed(SEED, "latents"), ADDRESSES, (3,))
    )
    torch.testing.assert_close(found, (0.1 * epsilon + 1).square().mean(1))


def test_images_become_numbers_between_minus_1_and_1_and_floats_stay():
    levels = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_allclose(as_input(levels), np.linspace(-1, 1, 256), atol=1e-6)
    floats = torch.tensor([-3.0, 7.0])
    assert torch.equal(as_input(floats), floats)


def classifier(stage, context):
    return Classification(lambda: nn.Linear(2, 2), torch.randn(20, 2), torch.arange(20) % 2)


def test_training_in_this_process_leaves_weights_and_history_and_tidies_up(context, tmp_path):
    lines = []
    context.say = lambda *update: lines.append(update)
    stage = Stage("network", Code("network", 1, "maker"), {"x": 1})
    (tmp_path / "out").mkdir()
    train("test_tasks:classifier", stage, TrainConfig(steps=4, ema=0.5), 0, tmp_path / "out", context)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "ema.safetensors",
        "state.json",
    }
    assert checkpoint.read_state(tmp_path / "out")["step"] == 4
    assert context.store.storage.names("artifacts/checkpoint") == []
    assert lines[-1][:2] == ("network", stage.key)
    assert lines[-1][2].finished


def test_training_that_died_goes_on_where_it_was(context, tmp_path, monkeypatch):
    stage = Stage("network", Code("network", 1, "maker"), {"x": 1})
    config = TrainConfig(steps=6, checkpoint_every=2)
    (tmp_path / "out").mkdir()
    calls = []
    loss = Classification.loss

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(self, *arguments)

    monkeypatch.setattr(Classification, "loss", counted)
    with pytest.raises(KeyboardInterrupt):
        train("test_tasks:classifier", stage, config, 0, tmp_path / "out", context)
    assert context.store.storage.names("artifacts/checkpoint") == [f"network-{stage.key}-a"]
    train("test_tasks:classifier", stage, config, 0, tmp_path / "out", context)
    assert len(calls) == 4 + 4
    assert context.store.storage.names("artifacts/checkpoint") == []
