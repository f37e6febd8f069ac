"""The contracts of parameter generators: an edition of the vector autoencoder, and the denoiser of its latents.

Subclass `AutoencoderContract` and define the fixture `settings`: the values of an `autoencoder:` section with the
name of a registered edition (`harness.models.generators.edition`) and small layers, for vectors of the suite's
`lengths`. Subclass `DenoiserContract` and define the fixture `build`, which makes an untrained denoiser for latents
of a given length.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from harness.models.generators.edition import AUTOENCODERS, Edition, build, edition_of
from harness.models.generators.parameter_autoencoder import VectorAutoencoder
from harness.testing.checks import random_state_left_alone

NORMS = ("group", "batch", "none")
LENGTHS = (64, 83, 131)  # of vectors: a power of two, and lengths that no stride divides


def untrained(make: Callable[[], nn.Module]) -> Any:
    """Returns what `make` builds from torch's generator at seed 0, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    """Returns standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def idle_parameters(model: nn.Module) -> list[str]:
    """Returns the names of the parameters that the last backward pass did not reach."""
    return [
        name for name, one in model.named_parameters() if one.grad is None or not float(one.grad.abs().sum())
    ]


def assert_same_after_reload(model: nn.Module, again: nn.Module, *given: torch.Tensor) -> None:
    """Fails unless `again`, with the saved weights of `model`, returns the same."""
    again.load_state_dict(load(save(model.state_dict())))
    with torch.no_grad():
        assert torch.equal(model(*given), again.eval()(*given)), (
            "a network with the same settings and the saved weights must return the same"
        )


class AutoencoderContract:
    """What every edition of the autoencoder must do. A subclass defines the fixture `settings`."""

    lengths = LENGTHS  # override if the layers of `settings` need longer vectors

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """Values of the `autoencoder:` section, `norm` excepted."""
        raise NotImplementedError("define the fixture `settings`, which names the edition and its layers")

    @pytest.fixture(params=NORMS)
    def model(self, request: pytest.FixtureRequest, settings: Mapping[str, Any]) -> VectorAutoencoder:
        """An autoencoder of vectors of the suite's second length, with each kind of normalisation."""
        found: VectorAutoencoder = untrained(
            lambda: build({**settings, "norm": request.param}, self.lengths[1])
        )
        return found

    def test_it_is_registered(self, settings: Mapping[str, Any]) -> None:
        assert settings["edition"] in AUTOENCODERS.names()
        edition = edition_of(settings)
        assert isinstance(edition, Edition)
        edition.check({**settings, "norm": "group"})

    def test_sizes_are_known_without_the_network(self, settings: Mapping[str, Any]) -> None:
        edition = edition_of(settings)
        for length in self.lengths:
            places = edition.places(settings, length)
            assert places.least <= length, f"vectors of {length} numbers are too short; change `lengths`"
            assert len(places.after) == len(settings["channels"]), (
                "places() must have one entry per strided layer"
            )
            assert all(isinstance(place, int) and place > 0 for place in places.after)
            with torch.device("meta"):
                model = build({**settings, "norm": "none"}, length)
            assert model.latent == edition.latent(settings, length) > 0, "latent() must match the network"
            assert model.length == length

    def test_vectors_of_every_length_go_through(self, settings: Mapping[str, Any]) -> None:
        for length in self.lengths:
            model = untrained(partial(build, {**settings, "norm": "group"}, length))
            with torch.no_grad():
                latents = model.encode(normal(3, length))
                vectors = model.decode(latents)
            assert latents.shape == (3, model.latent)
            assert vectors.shape == (3, length), "decode() must return vectors of the length that was encoded"
            assert latents.dtype == vectors.dtype == torch.float32
            assert torch.isfinite(vectors).all()

    def test_latent_noise_meets_what_is_kept_of_the_latent(self, model: VectorAutoencoder) -> None:
        vectors, noise = normal(3, model.length), normal(3, model.latent, seed=2)
        with torch.no_grad():
            expected = model.decode(0.25 * model.encode(vectors) + noise)
            torch.testing.assert_close(model(vectors, noise, 0.25), expected)
            assert torch.equal(model(vectors, torch.zeros_like(noise)), model.decode(model.encode(vectors)))

    def test_networks_are_independent_of_each_other(self, model: VectorAutoencoder) -> None:
        """In evaluation mode, with every normalisation."""
        given = ((model.encode, normal(6, model.length)), (model.decode, normal(6, model.latent)))
        for function, x_N in given:
            with torch.no_grad():
                same = torch.allclose(function(x_N)[:2], function(x_N[:2]), atol=1e-5)
            assert same, f"{function.__name__}() must not depend on the rest of the batch in evaluation mode"

    def test_every_number_of_a_vector_matters_both_ways(self, settings: Mapping[str, Any]) -> None:
        for length in self.lengths:
            model = untrained(partial(build, {**settings, "norm": "none"}, length))
            vector, latent = normal(1, length) / 4, normal(1, model.latent) / 4
            seen_LP = torch.autograd.functional.jacobian(model.encode, vector, vectorize=True)[0, :, 0]
            reached_PL = torch.autograd.functional.jacobian(model.decode, latent, vectorize=True)[0, :, 0]
            assert (seen_LP.abs().sum(0) > 0).all(), (
                f"numbers of a vector of length {length} that encode() ignores"
            )
            assert (seen_LP.abs().sum(1) > 0).all(), "numbers of the latent that do not depend on the vector"
            assert (reached_PL.abs().sum(1) > 0).all(), (
                f"numbers of a vector of length {length} that are constant"
            )
            assert (reached_PL.abs().sum(0) > 0).all(), "numbers of the latent that decode() ignores"

    def test_a_gradient_reaches_all_parameters(self, settings: Mapping[str, Any]) -> None:
        model = untrained(lambda: build({**settings, "norm": "none"}, self.lengths[1])).train()
        vectors, noise = normal(4, model.length), 0.1 * normal(4, model.latent, seed=2)
        nn.functional.mse_loss(model(vectors, noise), vectors).backward()
        idle = idle_parameters(model)
        assert not idle, f"parameters that no gradient reaches: {', '.join(idle)}"

    def test_its_weights_can_be_saved_and_loaded_again(
        self, model: VectorAutoencoder, settings: Mapping[str, Any], request: pytest.FixtureRequest
    ) -> None:
        norm = request.node.callspec.params["model"]
        again = build({**settings, "norm": norm}, model.length)
        assert_same_after_reload(model, again, normal(3, model.length), torch.zeros(3, model.latent))

    def test_running_it_draws_nothing_and_changes_nothing(self, model: VectorAutoencoder) -> None:
        vectors, noise = normal(3, model.length), normal(3, model.latent)
        copies = vectors.clone(), noise.clone()
        with torch.no_grad(), random_state_left_alone("encode() and decode()"):
            model(vectors, noise)
        assert torch.equal(vectors, copies[0])
        assert torch.equal(noise, copies[1])


class DenoiserContract:
    """What the denoiser of latents must do. A subclass defines the fixture `build`."""

    @pytest.fixture
    def build(self) -> Callable[[int], nn.Module]:
        """Makes an untrained denoiser for latents of a given length: [N, L] and timesteps [N] to noise [N, L]."""
        raise NotImplementedError(
            "define the fixture `build`, which makes a denoiser for latents of a given length"
        )

    @pytest.mark.parametrize("latent", [1, 4, 9, 64])
    def test_it_keeps_the_shape_of_latents(self, build: Callable[[int], nn.Module], latent: int) -> None:
        model = untrained(lambda: build(latent))
        with torch.no_grad():
            noise = model(normal(3, latent), torch.tensor([0, 5, 999]))
        assert noise.shape == (3, latent)
        assert noise.dtype == torch.float32
        assert torch.isfinite(noise).all()

    def test_each_latent_has_its_own_timestep(self, build: Callable[[int], nn.Module]) -> None:
        model, latents = untrained(lambda: build(8)), normal(1, 8)
        with torch.no_grad():
            together = model(latents.expand(3, -1), torch.tensor([0, 10, 900]))
            for row, timestep in zip(together, (0, 10, 900), strict=True):
                torch.testing.assert_close(row, model(latents, torch.tensor([timestep]))[0])
        assert not torch.allclose(together[0], together[1]), "the output must depend on the timestep"
        assert not torch.allclose(together[1], together[2]), "the output must depend on the timestep"

    def test_latents_are_independent_of_each_other(self, build: Callable[[int], nn.Module]) -> None:
        """In evaluation mode."""
        model, latents, timesteps = untrained(lambda: build(9)), normal(6, 9), torch.arange(6) * 100
        with torch.no_grad():
            same = torch.allclose(model(latents, timesteps)[:2], model(latents[:2], timesteps[:2]), atol=1e-5)
        assert same, "the noise of a latent must not depend on the rest of the batch in evaluation mode"

    def test_a_gradient_reaches_all_parameters(self, build: Callable[[int], nn.Module]) -> None:
        model, latents = untrained(lambda: build(9)).train(), normal(4, 9)
        nn.functional.mse_loss(model(latents, torch.arange(4) * 100), normal(4, 9, seed=2)).backward()
        idle = idle_parameters(model)
        assert not idle, f"parameters that no gradient reaches: {', '.join(idle)}"

    def test_its_weights_can_be_saved_and_loaded_again(self, build: Callable[[int], nn.Module]) -> None:
        model = untrained(lambda: build(9))
        assert_same_after_reload(model, build(9), normal(3, 9), torch.tensor([0, 5, 999]))

    def test_running_it_draws_nothing_and_changes_nothing(self, build: Callable[[int], nn.Module]) -> None:
        model, latents, timesteps = untrained(lambda: build(9)), normal(3, 9), torch.tensor([0, 5, 999])
        copies = latents.clone(), timesteps.clone()
        with torch.no_grad(), random_state_left_alone("the denoiser"):
            model(latents, timesteps)
        assert torch.equal(latents, copies[0])
        assert torch.equal(timesteps, copies[1])
