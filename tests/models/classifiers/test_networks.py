"""The networks of study 2, and their shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.classifiers.build import build
from harness.models.classifiers.mlp import build_mlp
from harness.models.classifiers.networks import (
    ConvNet,
    ConvNeXtTiny,
    ResNet18,
    ViTBase,
    ViTTiny,
    canonical_names,
)
from harness.models.generators.latent_denoiser import LatentDenoiser
from harness.models.generators.parameter_autoencoder import ParameterAutoencoder
from harness.weights.config import WeightsConfig


@settings(max_examples=25)
@given(
    st.integers(1, 200),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from([3, 5, 7]),
    st.integers(1, 9),
)
def test_vectors_of_every_length_go_through_the_autoencoder(length, channels, kernel, latent):
    model = ParameterAutoencoder(length, channels, kernel, latent)
    vectors = torch.randn(3, length)
    with torch.no_grad():
        latents = model.encode(vectors)
        assert latents.shape == (3, latent)
        assert model.decode(latents).shape == (3, length)
        assert torch.equal(model(vectors, torch.zeros(3, latent)), model.decode(latents))
        noise = torch.randn(3, latent)
        torch.testing.assert_close(model(vectors, noise), model.decode(latents + noise))


@pytest.mark.parametrize("length", [17, 64])
def test_every_entry_of_a_vector_matters_to_the_latent_and_back(length):
    torch.manual_seed(0)
    model = ParameterAutoencoder(length, [4, 8], 3, 5)
    forward = torch.autograd.functional.jacobian(model.encode, torch.randn(1, length))[0, :, 0]
    assert (forward.abs().sum(0) > 0).all()
    backward = torch.autograd.functional.jacobian(model.decode, torch.randn(1, 5))[0, :, 0]
    assert (backward.abs().sum(1) > 0).all()


@settings(max_examples=25)
@given(st.integers(1, 40), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from([3, 5, 7]))
def test_the_denoiser_keeps_the_shape_of_latents(latent, channels, kernel):
    model = LatentDenoiser(latent, channels, kernel)
    with torch.no_grad():
        assert model(torch.randn(3, latent), torch.tensor([0, 5, 999])).shape == (3, latent)


def test_the_denoiser_widens_then_narrows():
    model = LatentDenoiser(16, [4, 8, 12], 3)
    convolutions = [layer[0] for layer in model.layers]
    assert [(one.in_channels, one.out_channels) for one in convolutions] == [
        (1, 4),
        (4, 8),
        (8, 12),
        (12, 8),
        (8, 4),
    ]


CONVNETS = [ConvNet(), ConvNet(channels=[4], groups=1), ConvNet(channels=[4, 6, 8, 2], groups=2)]


@pytest.mark.parametrize("config", CONVNETS)
@pytest.mark.parametrize("size", [4, 7, 8])
def test_a_convnet_depends_on_every_parameter(config, size):
    torch.manual_seed(0)
    network = build(config.settings(2, size, 3))
    logits = network(torch.randn(5, 2, size, size))
    assert logits.shape == (5, 3)
    (logits * torch.randn(5, 3)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert not list(network.buffers()), "a network is its parameters"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"channels": [8, 6]}, "channels = 6: not divisible by groups = 4"),
        (
            {"name": "resnet", "widths": [4, 8], "depths": [1]},
            "depths = [1]: expected one for each of widths",
        ),
        ({"name": "vit", "width": 10}, "width = 10: not divisible by heads = 4"),
        ({"name": "vit-tiny", "path": "x", "patch": 4}, "patch = 4: a checkpoint has its own"),
        ({"name": "resnet18", "path": "x", "stem": "small"}, "stem = small: a checkpoint has its own"),
        ({"name": "resnet81"}, "did you mean 'resnet18'?"),
        ({"name": "pretrained"}, "'path' is missing"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(settings, words):
    with pytest.raises(UserError) as caught:
        parse(WeightsConfig, {"network": {"name": "convnet", **settings}}, "weights")
    assert words in str(caught.value)
    assert "weights: network" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "size", "words"),
    [
        (ConvNet(channels=[4, 4]), 2, "conv2 leaves one pixel and as many channels as groups = 4"),
        (
            ViTTiny(),
            30,
            "patch = 4 does not divide images of 30 pixels; give one of 1, 2, 3, 5, 6, 10, 15, 30",
        ),
        (ViTTiny(patch=16), 8, "patch = 16 does not divide"),
        (ConvNeXtTiny(), 4, "images of 3 x 4 x 4 cannot pass through convnext-tiny"),
        (ConvNeXtTiny(patch=4), 16, "give a larger data.size or a smaller network"),
    ],
)
def test_images_that_cannot_go_through_are_refused_in_the_plan(network, size, words):
    with pytest.raises(UserError, match=r"weights\.network") as caught:
        network.outline(3, size, 10)
    assert words in str(caught.value)


def test_stem_and_patch_follow_the_images():
    for small, size in ((True, 32), (False, 64)):
        assert ResNet18().small_stem(size) is small
    assert ResNet18(stem="small").small_stem(224)
    assert not ResNet18(stem="large").small_stem(32)
    assert [ViTTiny().architecture(3, size)["patch_size"] for size in (32, 64, 224)] == [4, 16, 16]
    assert [ConvNeXtTiny().architecture(3, size)["patch_size"] for size in (8, 32, 224)] == [1, 2, 4]
    assert ViTBase(patch=8).architecture(3, 224)["patch_size"] == 8


def test_canonical_names_are_those_of_torchvision_and_timm():
    """As torchvision's `resnet18` and timm's `convnext_tiny` and `vit_tiny_patch16_224` list them."""
    outline = ResNet18().outline(3, 32, 10)
    names = canonical_names([*outline.parameters, *outline.buffers])
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    modules = [
        "conv1",
        "bn1",
        "fc",
        *(f"{block}.{one}{n}" for block in blocks for one in ("conv", "bn") for n in (1, 2)),
    ]
    modules += [f"layer{stage}.0.downsample.{n}" for stage in (2, 3, 4) for n in (0, 1)]
    assert {name.rpartition(".")[0] for name in names.values()} == set(modules)
    assert len(set(names.values())) == len(names)
    assert [name for name in names.values() if name.startswith("layer4.0.bn2.")] == [
        f"layer4.0.bn2.{one}" for one in ("weight", "bias", "running_mean", "running_var")
    ]
    assert set(canonical_names(ViTTiny().outline(3, 32, 10).parameters).values()) == {
        "cls_token",
        "pos_embed",
        *(
            f"{module}.{one}"
            for module in [
                *("patch_embed.proj", "norm", "head"),
                *(
                    f"blocks.{n}.{part}"
                    for n in range(12)
                    for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
                ),
                *(f"blocks.{n}.attn.{part}" for n in range(12) for part in ("q", "k", "v", "proj")),
            ]
            for one in ("weight", "bias")
        ),
    }
    convnext = set(canonical_names(ConvNeXtTiny().outline(3, 32, 10).parameters).values())
    assert {
        "stem.0.weight",
        "stages.2.blocks.8.conv_dw.bias",
        "stages.3.downsample.1.weight",
        "head.fc.bias",
    } < convnext
    assert {
        "stages.0.blocks.0.gamma",
        "stages.1.blocks.2.mlp.fc2.weight",
        "stem.1.bias",
        "head.norm.bias",
    } < convnext
    assert not [name for name in convnext if name.startswith("convnext")]


def test_a_perceptron_is_linear_layers_with_relu_in_between():
    layers = list(build_mlp([7, 5, 3]))
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [(one.in_features, one.out_features) for one in layers[::2]] == [(7, 5), (5, 3)]
    assert [type(layer) for layer in build_mlp([7, 3])] == [nn.Linear]
