"""Regularisers of diffusion training: their losses against loops, their inputs against the paper, and workers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from regularised_training import train_with
from torch import nn

from harness.core.config import parse
from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.models.backbones.denoiser import Denoiser, load_denoiser, save_pipeline
from harness.models.backbones.family import build_network
from harness.models.backbones.unet import UNet
from harness.models.noise_processes.process import process_of
from harness.training import noise
from harness.training.randomness import StepRandomness
from harness.training.regularisers import (
    BESIDE,
    COIN,
    PLAIN,
    REGULARISERS,
    UNLABELLED,
    Dispersive,
    LinearSeparability,
    Plain,
    Regulariser,
    SelfConditioning,
    dispersion,
)
from harness.training.tasks import Denoising

IMAGES = torch.randint(0, 256, (9, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([7, 0, 3, 3, 5, 1])
PROCESS = process_of({"num_train_timesteps": 50})
PLAN = UNet(block_out_channels=[8, 16], layers_per_block=1, timesteps=50).plan(8, 1)


def randomness(count=6):
    return StepRandomness(11, 3, torch.arange(count))


def loss(model, regulariser, labels=None):
    return Denoising(nn.Identity, IMAGES, PROCESS, regulariser, labels_M=labels).loss(
        model, INDEX, randomness()
    )


class Small(nn.Module):
    """A network with a block to listen to; keeps what it was given."""

    def __init__(self, channels=1):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.block = nn.Conv2d(channels, 3, 3, padding=1)
            self.last = nn.Conv2d(3, 1, 1)
        self.seen = []

    def forward(self, x, t):
        self.seen.append((x.detach().clone(), torch.is_grad_enabled()))
        return SimpleNamespace(sample=self.last(torch.tanh(self.block(x))) + t.view(-1, 1, 1, 1) / 50)


@pytest.mark.parametrize("name", REGULARISERS.names())
class TestContract:
    """What the trainers of backbones and the plan rely on."""

    def regulariser(self, name):
        return REGULARISERS.load(name).model_validate({"name": name})

    def test_it_is_told_apart(self, name):
        assert isinstance(self.regulariser(name), Regulariser)
        assert self.regulariser(name).display_name == (None if name == "none" else name)

    def test_what_is_trained_can_be_built_and_gives_a_loss_for_each_sample(self, name):
        one = self.regulariser(name).resolved(PLAN)
        network = build_network(one.network(PLAN.config))
        beside = one.beside({block.name: block.channels for block in PLAN.blocks}, 3)
        if beside is not None:
            network.add_module(BESIDE, beside)
        images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
        labels = torch.tensor([0, 2, UNLABELLED, 1, 0]) if one.learns_labels else None
        task = Denoising(nn.Identity, images, process_of({"num_train_timesteps": 50}), one, labels_M=labels)
        losses = task.loss(network, torch.arange(5), randomness(count=5))
        assert losses.shape == (5,)
        losses.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())

    def test_its_settings_are_enough_to_make_it_again(self, name):
        one = self.regulariser(name).resolved(PLAN)
        settings = one.keyed()
        assert settings.pop("version") >= 1
        assert REGULARISERS.load(name).model_validate(settings) == one


def test_without_a_regulariser_nothing_changes():
    assert PLAIN.display_name is None
    assert PLAIN.network(PLAN.config) == PLAN.config
    one, other = Small(), Small()
    torch.testing.assert_close(
        loss(one, PLAIN),
        Denoising(nn.Identity, IMAGES, PROCESS).loss(other, INDEX, randomness()),
        rtol=0,
        atol=0,
    )
    assert len(one.seen) == 1


def dispersion_by_loops(h, temperature):
    total = 0.0
    for a in h:
        for b in h:
            total += math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a) / temperature)
    return math.log(total / len(h) ** 2)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 4.0])
def test_the_dispersion_is_that_of_loops_over_pairs(temperature):
    h = np.random.default_rng(0).standard_normal((6, 10))
    found = dispersion(torch.from_numpy(h), temperature)
    assert float(found) == pytest.approx(dispersion_by_loops(h.tolist(), temperature), rel=1e-9)


def test_equal_activations_are_the_worst_and_have_a_gradient():
    h_ND = torch.ones(4, 7, requires_grad=True)
    worst = dispersion(h_ND, 0.5)
    worst.backward()
    assert float(worst.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(h_ND.grad).all()
    assert float(dispersion(torch.eye(4, 7), 0.5)) < -0.1


def test_the_dispersive_loss_adds_the_blocks_dispersion_to_every_sample():
    model = Small()
    regulariser = Dispersive(weight=0.7, block="block", temperature=0.3)
    found, plain = loss(model, regulariser), loss(Small(), PLAIN)
    h_ND = model.block(model.seen[0][0]).flatten(1).detach().double().numpy()
    expected = 0.7 * dispersion_by_loops(h_ND.tolist(), 0.3)
    torch.testing.assert_close(found, plain + expected, rtol=1e-5, atol=1e-6)
    assert not model.block._forward_hooks, "nothing listens after the step"


def test_the_gradient_of_the_dispersive_loss_is_that_of_its_value():
    model, other = Small(), Small()
    loss(model, Dispersive(weight=0.7, block="block", temperature=0.3)).mean().backward()
    mean = loss(other, PLAIN).mean()
    x = other.seen[0][0]
    (mean + 0.7 * dispersion(other.block(x).flatten(1), 0.3)).backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-7)


def test_a_block_of_the_dispersive_loss_is_named_as_everywhere():
    middle = next(block for block in PLAN.blocks if block.name == "mid_block")
    for name in ("mid", middle.number, "mid_block"):
        assert Dispersive(block=name).resolved(PLAN).block == "mid_block"
    with pytest.raises(UserError, match="instead of one"):
        Dispersive(block="up").resolved(PLAN)
    with pytest.raises(UserError, match="unknown block 'middle'"):
        Dispersive(block="middle").resolved(PLAN)


def test_settings_out_of_range_are_refused():
    for values in (
        {"name": "dispersive", "weight": 0},
        {"name": "dispersive", "temperature": -1},
        {"name": "dispersive", "label": "two words"},
    ):
        with pytest.raises(UserError):
            parse(Dispersive, values, "regulariser")
    for weights in ([], [-1.0], [0.0, 0.0]):
        with pytest.raises(UserError, match="weights"):
            parse(LinearSeparability, {"name": "lsep", "weights": weights}, "regulariser")
    with pytest.raises(UserError):
        parse(SelfConditioning, {"name": "self_conditioning", "probability": 1.5}, "regulariser")


def test_a_label_names_it_and_changes_no_key():
    assert Dispersive(label="strong").display_name == "strong"
    assert Dispersive(label="strong").keyed() == Dispersive().keyed()
    assert Plain().keyed()["name"] == "none"


LABELS = torch.tensor([2, 0, 1, UNLABELLED, 0, 2, 1, 1, 0])  # of IMAGES


def separable(weights):
    """Returns a small network with a linear classifier beside it, and the regulariser."""
    model, regulariser = Small(), LinearSeparability(block="block", weights=weights)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.add_module(BESIDE, regulariser.beside({"block": 3}, 3))
    return model, regulariser


def test_linear_separability_adds_the_weighted_cross_entropy_of_labelled_samples():
    model, regulariser = separable([0.5, 0.0, 2.0, 1.0])
    found, plain = loss(model, regulariser, LABELS), loss(Small(), PLAIN)
    addresses = torch.stack([torch.arange(6), torch.full((6,), 3), torch.zeros(6)], 1).long()
    steps = noise.integers(derive_seed(11, "timestep"), addresses, 50).tolist()
    weight, bias = (one.detach().double().numpy() for one in model.get_submodule(BESIDE).parameters())
    maps = model.block(model.seen[0][0]).detach().double().numpy()
    expected = []
    for step, label, one in zip(steps, LABELS[INDEX].tolist(), maps, strict=True):
        means = [one[channel].sum() / 16 for channel in range(3)]
        scores = [
            sum(w * m for w, m in zip(row, means, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        entropy = math.log(sum(math.exp(score) for score in scores)) - scores[label]
        share = [0.5, 0.0, 2.0, 1.0][min(3, int(step / 12.5))]
        expected.append(0.0 if label == UNLABELLED else share * entropy)
    assert len({int(step / 12.5) for step in steps}) > 1
    assert expected.count(0.0) >= 2, "image 3 is there twice, and has no label"
    torch.testing.assert_close(
        (found - plain).double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5
    )
    assert not model.block._forward_hooks, "nothing listens after the step"


def test_the_classifier_and_the_block_learn_from_labels_and_not_what_comes_after_the_block():
    model, regulariser = separable([1.0])
    (loss(model, regulariser, LABELS).sum() - loss(model, PLAIN).sum()).backward()
    assert model.get_submodule(BESIDE).weight.grad.abs().max() > 1e-3
    assert model.block.weight.grad.abs().max() > 1e-4
    assert model.last.weight.grad.abs().max() < 1e-5


def test_images_without_labels_train_the_denoiser_alone():
    model, regulariser = separable([1.0])
    found = loss(model, regulariser, torch.full_like(LABELS, UNLABELLED))
    torch.testing.assert_close(found, loss(Small(), PLAIN), rtol=0, atol=0)
    found.sum().backward()
    assert not model.get_submodule(BESIDE).weight.grad.any(), "zero, not missing: other workers wait for it"


def test_tokens_are_averaged_over_positions():
    model, regulariser = separable([1.0])
    maps_NCHW = torch.randn(2, 3, 4, 5)
    tokens_NLC = maps_NCHW.flatten(2).transpose(1, 2)
    torch.testing.assert_close(regulariser.kept(model, maps_NCHW), regulariser.kept(model, tokens_NLC))


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_self_conditioning_gives_each_chosen_sample_its_own_estimate_and_the_others_zeros(probability):
    model = Small(channels=2)
    loss(model, SelfConditioning(probability=probability))
    given, with_gradient = model.seen[-1]
    assert with_gradient
    addresses = torch.stack([torch.arange(6), torch.full((6,), 3), torch.zeros(6)], 1).long()
    coin = noise.integers(derive_seed(11, "self-conditioning"), addresses, COIN)
    chosen = coin < probability * COIN
    levels = noise.integers(derive_seed(11, "timestep"), addresses, 50)
    epsilon = noise.normal(derive_seed(11, "noise"), addresses, (1, 4, 4))
    x = IMAGES[INDEX].float() / 127.5 - 1
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 50), 0)[levels].view(-1, 1, 1, 1)
    noised = alphas.sqrt() * x + (1 - alphas).sqrt() * epsilon
    torch.testing.assert_close(given[:, :1], noised, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        predicted = Small(channels=2)(torch.cat([noised, 0 * noised], 1), levels).sample
    expected = ((noised - (1 - alphas).sqrt() * predicted) / alphas.sqrt()).clamp(-1, 1)
    expected[~chosen] = 0
    torch.testing.assert_close(given[:, 1:], expected, rtol=1e-4, atol=1e-4)
    assert [gradient for _, gradient in model.seen[:-1]] == [False] * bool(chosen.any())
    assert 0 < int(chosen.sum()) < 6 or probability != 0.5


def test_a_self_conditioned_pipeline_is_marked_and_reads_zeros_unless_it_is_given_an_estimate(tmp_path):
    torch.manual_seed(0)
    network = build_network(SelfConditioning().network(PLAN.config))
    save_pipeline(network, PLAN.process, tmp_path / "marked", self_conditioned=True)
    plain = build_network(PLAN.config)
    save_pipeline(plain, PLAN.process, tmp_path / "plain")
    assert not load_denoiser(tmp_path / "plain").self_conditioned
    denoiser = load_denoiser(tmp_path / "marked")
    assert isinstance(denoiser, Denoiser)
    assert denoiser.self_conditioned
    z, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 20, 49])
    estimate = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        for given, channels in ((None, 0 * z), (estimate, estimate)):
            expected = network(torch.cat([z, channels], 1), t).sample
            torch.testing.assert_close(denoiser(z, t, given), expected)
    names = [block.name for block in PLAN.blocks]
    taps = denoiser.reader(names)
    assert taps(z, 20)["mid_block"].shape == (3, 16, 4, 4)
    taps.remove()


@pytest.mark.slow
def test_two_workers_learn_what_one_does(tmp_path):
    """Shares of four samples and three: neither equal shares nor their number may matter beyond rounding."""
    before, alone, together = (train_with(*how) for how in ((1, tmp_path, 0), (1, tmp_path), (2, tmp_path)))
    for name, weights in alone.items():
        for parameter, value in weights.items():
            torch.testing.assert_close(together[name][parameter], value, rtol=1e-4, atol=2e-6)
        assert max(float((weights[one] - before[name][one]).abs().max()) for one in weights) > 1e-3


@pytest.mark.parametrize("regulariser", [PLAIN, SelfConditioning(probability=1.0)], ids=["none", "self"])
def test_a_network_in_sigma_learns_from_scaled_samples_what_edm_asks_of_it(regulariser):
    """Against the preconditioning of diffusers; the estimate that a network reads is not scaled."""
    model = Small(channels=1 + regulariser.reads_its_estimate)
    process = process_of({"_class_name": "EDMEulerScheduler", "num_train_timesteps": 50})
    found = Denoising(nn.Identity, IMAGES, process, regulariser).loss(model, INDEX, randomness())
    theirs = EDMEulerScheduler()
    theirs.set_timesteps(50)
    addresses = torch.stack([torch.arange(6), torch.full((6,), 3), torch.zeros(6)], 1).long()
    sigma = theirs.sigmas[:-1].flip(0)[noise.integers(derive_seed(11, "timestep"), addresses, 50)]
    sigma = sigma.view(-1, 1, 1, 1)
    x = IMAGES[INDEX].float() / 127.5 - 1
    noised = x + sigma * noise.normal(derive_seed(11, "noise"), addresses, (1, 4, 4))
    given = model.seen[-1][0]
    scaled = theirs.precondition_inputs(noised, sigma)
    torch.testing.assert_close(given[:, :1], scaled, rtol=1e-4, atol=1e-5)
    again = Small(channels=given.shape[1])

    def clean(channels):
        with torch.no_grad():
            predicted = again(channels, theirs.precondition_noise(sigma).flatten()).sample
        return theirs.precondition_outputs(noised, predicted, sigma)

    if regulariser.reads_its_estimate:
        first = clean(torch.cat([scaled, torch.zeros_like(scaled)], 1)).clamp(-1, 1)
        torch.testing.assert_close(given[:, 1:], first, rtol=1e-4, atol=1e-4)
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2  # Karras et al. 2022, table 1
    wanted = (weight * (clean(given) - x) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found.detach(), wanted, rtol=2e-3, atol=1e-4)
