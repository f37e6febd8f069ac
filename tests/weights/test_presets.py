"""The two editions as values: what the tables say, and that whatever is given wins."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import parse
from harness.core.errors import UserError
from harness.weights.config import WeightsConfig
from harness.weights.presets import PRESETS, with_preset


def config_of(**values):
    return parse(WeightsConfig, values, "weights")


def values_of(config, *paths):
    found = []
    for path in paths:
        value = config
        for step in path.split("."):
            value = getattr(value, step)
        found.append(value)
    return found


TABLE = {
    "2024-02": {
        "network.name": "resnet18",
        "network.stem": "small",
        "parameters": ["bn-16-18"],
        "train.optimizer": "sgd",
        "train.learning_rate": 0.1,
        "train.momentum": 0.9,
        "train.weight_decay": 5e-4,
        "train.batch": 64,
        "train.epochs": 30,
        "train.decay_epochs": 10,
        "train.gamma": 0.1,
        "train.schedule": "step",
        "checkpoints.every": 1,
        "checkpoints.unit": "epoch",
        "checkpoints.learning_rate": 1e-4,
        "k": [200],
        "subsets": ["first"],
        "autoencoder.edition": "2024-02",
        "autoencoder.channels": [4, 4, 4, 4],
        "autoencoder.decoder_channels": [4, 256, 256, 8],
        "autoencoder.kernel": 5,
        "autoencoder.latent": None,
        "autoencoder.normalise": "none",
        "autoencoder.noise": "mixed",
        "autoencoder.parameter_noise": 0.001,
        "autoencoder.latent_noise": 0.5,
        "autoencoder.full_batch": True,
        "autoencoder.train.steps": 30_000,
        "autoencoder.train.optimizer": "adamw",
        "autoencoder.train.learning_rate": 1e-3,
        "diffusion.channels": [64, 128, 256, 512],
        "diffusion.timesteps": 1000,
        "diffusion.clip": True,
        "diffusion.train.steps": 30_000,
        "diffusion.train.ema": 0.9999,
        "generate": 100,
        "sampling_steps": 1000,
        "sampler": "ddpm",
    },
    "2024-12": {
        "network.name": "resnet18",
        "parameters": ["bn-16-18"],
        "buffers": "base",
        "train.optimizer": "adamw",
        "train.learning_rate": 5e-4,
        "train.weight_decay": 5e-4,
        "train.batch": 128,
        "train.epochs": 10,
        "train.schedule": "cosine",
        "checkpoints.every": 1,
        "checkpoints.unit": "step",
        "checkpoints.optimizer": "adamw",
        "checkpoints.learning_rate": 0.03,
        "checkpoints.batch": 128,
        "k": [300],
        "subsets": ["first"],
        "autoencoder.edition": "2024-12",
        "autoencoder.channels": [64, 128, 256, 256, 32],
        "autoencoder.kernel": 7,
        "autoencoder.latent": 128,
        "autoencoder.normalise": "tensor",
        "autoencoder.noise": "added",
        "autoencoder.parameter_noise": 0.001,
        "autoencoder.latent_noise": 0.1,
        "autoencoder.full_batch": False,
        "autoencoder.train.steps": 500,
        "autoencoder.train.batch": 50,
        "autoencoder.train.optimizer": "adamw",
        "autoencoder.train.learning_rate": 2e-5,
        "diffusion.channels": [64, 128, 256, 512],
        "diffusion.kernel": 7,
        "diffusion.norm": "batch",
        "diffusion.clip": False,
        "diffusion.timesteps": 1000,
        "diffusion.train.steps": 1000,
        "diffusion.train.batch": 50,
        "diffusion.train.optimizer": "adamw",
        "diffusion.train.learning_rate": 1e-4,
        "diffusion.train.schedule": "cosine",
        "diffusion.train.ema": None,
        "generate": 200,
    },
}


@pytest.mark.parametrize("edition", TABLE)
def test_an_edition_is_what_its_table_says(edition):
    config = config_of(preset=edition)
    assert dict(zip(TABLE[edition], values_of(config, *TABLE[edition]), strict=True)) == TABLE[edition]


def leaves(values, path=()):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def put(values, path, value):
    for step in path[:-1]:
        values = values.setdefault(step, {})
    values[path[-1]] = value


LEAVES = {
    edition: [path for path in leaves(values) if path[0] != "network" and path[-1] != "schedule"]
    for edition, values in PRESETS.items()
}


@given(
    st.sampled_from(sorted(PRESETS)).flatmap(
        lambda edition: st.tuples(st.just(edition), st.sets(st.sampled_from(LEAVES[edition])))
    )
)
def test_what_is_given_wins_and_the_rest_is_the_editions(edition_and_paths):
    edition, paths = edition_and_paths
    given_values = {"preset": edition}
    for path in paths:
        put(given_values, path, "given")
    before, kept = copy.deepcopy(given_values), copy.deepcopy(PRESETS)
    merged = with_preset(given_values)
    assert merged["preset"] == edition
    for path in leaves(PRESETS[edition]):
        found, published = merged, PRESETS[edition]
        for step in path:
            if step not in found:
                assert {"steps", "decay_every"} & set(found), (
                    f"{path} is left out for what stands in its place"
                )
                break
            found, published = found[step], published[step]
        else:
            edition_given = path[-1] in ("channels", "decoder_channels", "kernel", "latent")
            assert found == ("given" if path in paths else published) or edition_given
    assert given_values == before
    assert kept == PRESETS


@pytest.mark.parametrize("values", [None, 3, [], {}, {"k": [3]}, {"preset": "2024-03"}, {"preset": []}])
def test_without_a_known_preset_values_stay(values):
    assert with_preset(values) == values


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"weights: preset = .2024-1.*2024-02.*2024-12"):
        config_of(preset="2024-1")


def test_a_network_of_ones_own_comes_without_the_published_one():
    assert values_of(config_of(preset="2024-02", network="convnet"), "network.name", "parameters") == [
        "convnet",
        ["norm"],
    ]
    own = config_of(preset="2024-02", network={"name": "convnet", "channels": [4], "groups": 2})
    assert own.network.channels == [4]
    assert own.autoencoder.edition == "2024-02"
    same = config_of(preset="2024-02", network={"name": "resnet18", "stem": "large"})
    assert values_of(same, "network.stem", "parameters") == ["large", ["bn-16-18"]]
    assert config_of(preset="2024-12", parameters=["fc"]).parameters == ["fc"]
    assert config_of(preset="2024-12", parameters=["fc"]).network.name == "resnet18"


def test_one_value_of_a_section_leaves_its_others():
    config = config_of(
        preset="2024-12", autoencoder={"latent": 64, "train": {"steps": 7}}, diffusion={"train": {"batch": 9}}
    )
    assert values_of(
        config, "autoencoder.latent", "autoencoder.train.steps", "autoencoder.train.learning_rate"
    ) == [64, 7, 2e-5]
    assert values_of(config, "diffusion.train.batch", "diffusion.train.steps") == [9, 1000]


def test_steps_take_the_place_of_epochs_and_another_schedule_that_of_its_decay():
    assert values_of(config_of(preset="2024-02", train={"steps": 50}), "train.steps", "train.epochs") == [
        50,
        None,
    ]
    cosine = config_of(preset="2024-02", train={"schedule": "cosine"})
    assert values_of(cosine, "train.schedule", "train.decay_epochs", "train.epochs") == ["cosine", None, 30]
    every = config_of(preset="2024-02", train={"decay_every": 3})
    assert values_of(every, "train.decay_every", "train.decay_epochs") == [3, None]


def test_an_autoencoder_of_the_other_edition_has_its_layers():
    for values in ({}, {"preset": "2024-12"}):
        config = config_of(**values, autoencoder={"edition": "2024-02"})
        assert config.autoencoder.channels == [4, 4, 4, 4]
        assert config.autoencoder.latent is None
        assert config.autoencoder.numbers(2048) == 12
    config = config_of(preset="2024-02", autoencoder={"edition": "2024-12", "latent": 32})
    assert values_of(config, "autoencoder.decoder_channels", "autoencoder.kernel", "autoencoder.latent") == [
        None,
        7,
        32,
    ]
    assert config_of(autoencoder={"edition": "2024-02"}, k=[3]).k == [3]
