"""What cannot be built is refused before anything runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.generators.edition import build
from harness.weights.config import AutoencoderConfig, WeightsConfig
from harness.weights.sizes import check_models


def check(length, **values):
    check_models(parse(WeightsConfig, values, "weights"), length)


TILED = {"edition": "2024-02"}
BAD = {
    "latent": ({"autoencoder": {"latent": 65}}, 64, r"weights\.autoencoder\.latent: 65 numbers.*64 varied"),
    "tiles as many": (
        {"autoencoder": {**TILED, "channels": [8], "decoder_channels": None}},
        64,
        r"latent: 96 numbers are more than the 64",
    ),
    "strides": (
        {"autoencoder": {"latent": 2}},
        16,
        r"weights\.autoencoder\.channels: 5 strided layers need at least 17 parameters, and 16",
    ),
    "tiles": ({"autoencoder": TILED}, 624, r"4 strided layers need at least 625 parameters, and 624 vary"),
    "steps": (
        {"sampling_steps": 1001},
        2048,
        r"sampling_steps = 1001 exceeds diffusion\.timesteps = 1000",
    ),
    "one number": ({"autoencoder": {"latent": 2, "channels": [4, 1]}}, 4, r"layer 2 leaves one number of 4"),
    "one latent": ({"autoencoder": {"latent": 1}, "diffusion": {"channels": [1]}}, 64, r"latent = 1 needs"),
    "batch": (
        {"autoencoder": {"latent": 8, "norm": "batch", "train": {"batch": 1}}},
        32,
        r"weights\.autoencoder\.norm = batch: a single value cannot",
    ),
    "full batch": (
        {"autoencoder": {"full_batch": True, "train": {"workers": 4}}, "k": [3, 9]},
        2048,
        r"train\.workers = 4: more than the 3 networks",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_one_line(name):
    values, length, words = BAD[name]
    with pytest.raises(UserError, match=words) as caught:
        check(length, **values)
    assert "\n" not in str(caught.value)


def test_what_is_just_enough_goes():
    check(64, autoencoder={"latent": 64})
    check(17, autoencoder={"latent": 2})
    check(625, autoencoder=TILED)
    for edition in ("2024-02", "2024-12"):
        check(2048, preset=edition)


CONFLICTS = {
    "a latent is needed": ({"latent": None}, "latent = None"),
    "a latent follows": ({**TILED, "latent": 12}, "latent = 12"),
    "widths": ({**TILED, "decoder_channels": [4, 4]}, "expected 4, as many"),
    "no decoder": ({"decoder_channels": [4]}, "only for edition 2024-02"),
    "shares": ({"noise": "mixed", "latent_noise": 1.5}, "at most 1"),
    "workers": ({"norm": "batch", "train": {"workers": [1, 2]}}, "norm = batch.*not \\[1, 2\\]"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_values_that_contradict_each_other_are_refused(name):
    values, words = CONFLICTS[name]
    with pytest.raises(UserError, match=words):
        parse(WeightsConfig, {"autoencoder": values}, "weights")


@given(st.sampled_from([3, 5]), st.integers(1, 3), st.integers(1, 4), st.integers(1, 300))
def test_the_latents_size_is_known_without_the_network(stride, stages, width, length):
    config = AutoencoderConfig(
        edition="2024-02", channels=[width] * stages, kernel=stride, latent=None, norm="none"
    )
    numbers = config.numbers(length)
    if numbers:
        with torch.device("meta"):
            assert build(config.keyed(), length).latent == numbers
    else:
        assert length < stride**stages
