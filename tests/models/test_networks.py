"""The networks of study 2, and their shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.models.convnet import ConvNet
from harness.models.latent_denoiser import LatentDenoiser
from harness.models.mlp import build_mlp
from harness.models.parameter_autoencoder import ParameterAutoencoder
from harness.weights.config import NetworkConfig


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


def test_the_denoiser_sees_each_samples_own_timestep():
    torch.manual_seed(0)
    model = LatentDenoiser(8, [4, 8], 3)
    latents = torch.randn(1, 8)
    with torch.no_grad():
        together = model(latents.expand(3, -1), torch.tensor([0, 10, 900]))
        for row, timestep in zip(together, (0, 10, 900), strict=True):
            torch.testing.assert_close(row, model(latents, torch.tensor([timestep]))[0])
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together[1], together[2])


NETWORKS = [
    NetworkConfig(),
    NetworkConfig(channels=[4], groups=1),
    NetworkConfig(channels=[4, 6, 8, 2], groups=2),
]


@pytest.mark.parametrize("config", NETWORKS)
@pytest.mark.parametrize(("in_channels", "classes"), [(1, 10), (3, 2)])
def test_a_networks_parameters_are_those_that_its_configuration_names(config, in_channels, classes):
    network = ConvNet(in_channels, config.channels, classes, config.groups)
    named = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert list(named.items()) == list(config.parameter_shapes(in_channels, classes).items())
    assert not list(network.buffers()), "a network is its parameters"


@pytest.mark.parametrize("config", NETWORKS)
@pytest.mark.parametrize("size", [4, 7, 8])
def test_a_network_gives_logits_and_depends_on_every_parameter(config, size):
    torch.manual_seed(0)
    network = ConvNet(2, config.channels, 3, config.groups)
    logits = network(torch.randn(5, 2, size, size))
    assert logits.shape == (5, 3)
    (logits * torch.randn(5, 3)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_a_network_treats_each_image_by_itself():
    torch.manual_seed(0)
    network = ConvNet(1, [4, 8], 3)
    images = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        together = network(images)
        for row, image in zip(together, images, strict=True):
            torch.testing.assert_close(row, network(image[None])[0])


def test_a_perceptron_is_linear_layers_with_relu_in_between():
    layers = list(build_mlp([7, 5, 3]))
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [(one.in_features, one.out_features) for one in layers[::2]] == [(7, 5), (5, 3)]
    assert [type(layer) for layer in build_mlp([7, 3])] == [nn.Linear]
