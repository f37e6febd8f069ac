"""The autoencoders and the denoiser of study 2, in both editions."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.models.generators.edition import AUTOENCODERS, build
from harness.models.generators.latent_denoiser import LatentDenoiser
from harness.models.generators.parameter_autoencoder import ParameterAutoencoder, TiledAutoencoder
from harness.testing.generators import AutoencoderContract, DenoiserContract
from harness.weights.presets import PRESETS

LENGTH = 2048  # of the location of both editions


def published(edition, length=LENGTH):
    settings = {"decoder_channels": None, **PRESETS[edition]["autoencoder"]}
    with torch.device("meta"):
        return build(settings, length)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def denoiser(edition, latent):
    diffusion = PRESETS[edition]["diffusion"]
    return LatentDenoiser(latent, diffusion["channels"], diffusion["kernel"], diffusion["norm"])


def test_the_autoencoder_of_2024_12_is_the_tables():
    model = published("2024-12")
    assert model.latent == 128
    convolutions = [one for one in model.down if isinstance(one, nn.Conv1d)]
    assert [one.out_channels for one in convolutions] == [64, 128, 256, 256, 32]
    assert {(one.kernel_size, one.stride) for one in convolutions} == {((7,), (2,))}
    assert count(model) == pytest.approx(2.2e6, rel=0.03)
    pairs = list(itertools.pairwise([1, 64, 128, 256, 256, 32]))
    weights = 2 * sum(7 * a * b for a, b in pairs) + 2 * 128 * 32 * LENGTH // 32
    biases = sum(a + b for a, b in pairs) + 128 + 32 * LENGTH // 32
    norms = 2 * (64 + 128 + 256 + 256 + 32) + 2 * (256 + 256 + 128 + 64)
    assert count(model) == weights + biases + norms


def test_the_autoencoder_of_2024_02_is_the_tables():
    model = published("2024-02")
    assert model.inner == (4, 3)
    assert model.latent == 12
    down = [one for one in model.down if isinstance(one, nn.Conv1d)]
    up = [one for one in model.up if isinstance(one, nn.ConvTranspose1d)]
    assert [one.out_channels for one in down] == [4, 4, 4, 4]
    assert [one.out_channels for one in up] == [4, 256, 256, 8]
    assert {one.stride for one in [*down, *up]} == {(5,)}
    assert [one.kernel_size[0] for one in down] == [8, 9, 6, 6], "5 and the remainders of 2048, 409, 81, 16"
    assert [one.kernel_size[0] for one in up] == [6, 6, 9, 8]
    assert sum(isinstance(one, nn.Tanh) for one in [*model.down, *model.up]) == 8


def test_its_stages_have_the_sizes_of_the_table():
    model, sizes = TiledAutoencoder(LENGTH, [4] * 4, [4, 8, 8, 8], 5, "none"), []
    for layer in [*model.down, *model.up]:
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            layer.register_forward_hook(lambda _, given, made: sizes.append(made.shape[2]))
    with torch.no_grad():
        model(torch.randn(2, LENGTH), torch.zeros(2, 12))
    assert sizes == [409, 81, 16, 3, 16, 81, 409, 2048, 2048]


@pytest.mark.parametrize("edition", ["2024-02", "2024-12"])
def test_the_denoiser_is_the_tables(edition):
    model = denoiser(edition, published(edition).latent)
    convolutions = [layer[0] for layer in model.layers]
    assert [one.out_channels for one in convolutions] == [64, 128, 256, 512, 256, 128, 64]
    assert {(one.kernel_size, one.stride) for one in [*convolutions, model.out]} == {((7,), (1,))}
    assert count(model) == pytest.approx(2.46e6, rel=0.02)
    if edition == "2024-12":
        assert all(
            isinstance(layer[1], nn.BatchNorm1d) and isinstance(layer[2], nn.ELU) for layer in model.layers
        )


SIZES = st.tuples(st.sampled_from([3, 5, 7]), st.integers(1, 3)).flatmap(
    lambda one: st.tuples(st.just(one[0]), st.just(one[1]), st.integers(one[0] ** one[1], 400))
)


@settings(max_examples=12)
@given(SIZES, st.integers(1, 3))
def test_strides_that_leave_a_remainder_lose_nothing(sizes, width):
    """Brute force: each number of a vector moves the latent, and is moved by it."""
    stride, stages, length = sizes
    torch.manual_seed(0)
    model = TiledAutoencoder(length, [width] * stages, [width] * stages, stride, "none")
    vector, latent = torch.randn(1, length) / 4, torch.randn(1, model.latent) / 4
    seen = torch.autograd.functional.jacobian(model.encode, vector, vectorize=True)[0, :, 0]
    reached = torch.autograd.functional.jacobian(model.decode, latent, vectorize=True)[0, :, 0]
    assert seen.shape == (model.latent, length)
    assert (seen.abs().sum(0) > 0).all()
    assert (seen.abs().sum(1) > 0).all()
    assert reached.shape == (length, model.latent)
    assert (reached.abs().sum(1) > 0).all()
    assert (reached.abs().sum(0) > 0).all()


def test_the_published_size_loses_nothing_either():
    torch.manual_seed(0)
    model = TiledAutoencoder(LENGTH, [4] * 4, [4, 8, 8, 8], 5, "none")
    vector = torch.randn(1, LENGTH, requires_grad=True)
    (model.encode(vector) * torch.randn(1, 12)).sum().backward()
    assert (vector.grad != 0).all()
    reached = torch.autograd.functional.jacobian(model.decode, torch.randn(1, 12) / 4, vectorize=True)[
        0, :, 0
    ]
    assert (reached.abs().sum(1) > 0).all()


CASES = {
    "2024-02": {"channels": [3, 2], "decoder_channels": [4, 3], "kernel": 5, "latent": None},
    "2024-12": {"channels": [3, 2], "decoder_channels": None, "kernel": 5, "latent": 4},
}


class TestAutoencoders(AutoencoderContract):
    """Every registered edition."""

    @pytest.fixture(params=AUTOENCODERS.names())
    def settings(self, request):
        assert request.param in CASES, f"add a line for autoencoder {request.param!r} to CASES"
        return {"edition": request.param, **CASES[request.param]}


class TestDenoiser(DenoiserContract):
    """The denoiser, with each kind of normalisation."""

    @pytest.fixture(params=["group", "batch"])
    def build(self, request):
        return lambda latent: LatentDenoiser(latent, [4, 8], 3, request.param)


MODELS = {
    "2024-02": lambda norm: TiledAutoencoder(83, [3, 2], [4, 3], 5, norm),
    "2024-12": lambda norm: ParameterAutoencoder(83, [3, 2], 5, 4, norm),
}


@pytest.mark.parametrize("edition", MODELS)
@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_only_batch_norm_looks_at_other_networks_and_only_while_it_learns(edition, norm):
    torch.manual_seed(0)
    model, vectors = MODELS[edition](norm), torch.randn(6, 83)
    latents = torch.randn(6, model.latent)
    for function, given_N in ((model.encode, vectors), (model.decode, latents)):
        for mode in (True, False):
            model.train(mode)
            with torch.no_grad():
                same = torch.allclose(function(given_N)[:2], function(given_N[:2]), atol=1e-5)
            assert same == (norm != "batch" or not mode)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_denoiser_looks_at_other_latents_only_while_it_learns(norm):
    torch.manual_seed(0)
    model, latents, timesteps = LatentDenoiser(9, [4, 8], 3, norm), torch.randn(6, 9), torch.arange(6) * 100
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            same = torch.allclose(model(latents, timesteps)[:2], model(latents[:2], timesteps[:2]), atol=1e-5)
        assert same == (norm != "batch" or not mode)


def test_latents_of_2024_02_lie_between_minus_1_and_1():
    model = MODELS["2024-02"]("none")
    with torch.no_grad():
        assert model.encode(100 * torch.randn(5, 83)).abs().max() <= 1
