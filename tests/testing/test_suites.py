"""The contract suites find what is broken, and say which duty it is."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from harness.data.config import SOURCES, DataConfig
from harness.data.digits import read as read_digits
from harness.data.source import Source
from harness.features.heads.ridge import Ridge
from harness.models.encoders.encoder import Pixels
from harness.models.encoders.vision import PixelEncoder
from harness.models.generators.edition import AUTOENCODERS
from harness.models.generators.parameter_autoencoder import ParameterAutoencoder
from harness.models.generators.strided import Strided
from harness.report.figures.figure import Drawing, Figure, View
from harness.report.tables import from_arrow
from harness.sweep import studies
from harness.testing.checks import random_state_left_alone
from harness.testing.controls import ControlContract
from harness.testing.datasets import DataSetContract
from harness.testing.encoders import EncoderContract
from harness.testing.figures import FigureContract
from harness.testing.generators import AutoencoderContract
from harness.testing.heads import HeadContract
from harness.weights.controls import Gaussian


def fails(words, test, *arguments):
    """Runs a test of a suite, which must fail and say `words`."""
    with pytest.raises((AssertionError, pytest.fail.Exception), match=words):
        test(*arguments)


@pytest.mark.parametrize(
    ("draw", "library"),
    [(lambda: torch.rand(1), "torch"), (np.random.rand, "numpy.random"), (random.random, "random")],
)
def test_each_global_random_state_is_watched(draw, library):
    words = f"a part must not use .* that of {library};"
    with pytest.raises(AssertionError, match=words), random_state_left_alone("a part"):
        draw()


def ridge(before=None, after=None, keyed=None):
    """Returns a head that does something besides: to its training samples before, to what was fitted after."""

    class Broken(Ridge):
        def fit(self, train, validation, classes, seed, device):
            if before:
                before(train.x)
            fitted = super().fit(train, validation, classes, seed, device)
            return fitted._replace(module=after(fitted.module)) if after else fitted

        def keyed(self):
            return {**super().keyed(), **(keyed or {})}

    return Broken()


def noisy(network):
    with torch.no_grad():
        network[1].weight += 1e-3 * torch.randn(network[1].weight.shape)
    return network


def clear(x):
    x[0] = 0


HEADS = {
    "must not use global random state.* torch": (
        ridge(after=noisy),
        "it_leaves_the_global_random_state_alone",
    ),
    "the same seed must give the same head": (ridge(after=noisy), "it_is_the_same_every_time"),
    "must not change its inputs: train.x": (ridge(before=clear), "it_leaves_its_data_alone"),
    "scores of finite features must be finite": (
        ridge(after=lambda network: nn.Sequential(network, nn.Threshold(1e9, float("nan")))),
        "predictions_are_the_largest_scores",
    ),
    "must be JSON-like": (ridge(keyed={"strengths": (1.0,)}), "its_values_can_be_sent_to_a_worker"),
    "which is not Broken": (ridge(), "it_is_registered_and_has_a_version"),
    "a label must not be part of the key": (None, "a_label_changes_no_result"),
    "the only class seen must be predicted": (
        ridge(after=lambda network: nn.Sequential(network, nn.Softmin(1))),
        "it_handles_training_samples_of_one_class_alone",
    ),
}


class Labelled(Ridge):
    def keyed(self):
        return {**super().keyed(), "label": self.label}


@pytest.mark.parametrize("words", HEADS)
def test_a_broken_head(words):
    head, test = HEADS[words]
    fails(words, getattr(HeadContract(), f"test_{test}"), head or Labelled())


def test_a_head_that_swallows_what_is_not_finite():
    head = ridge(before=lambda x: np.nan_to_num(x, copy=False))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        HeadContract().test_it_refuses_training_features_that_are_not_finite(head, np.nan)


def test_a_head_whose_network_is_another_one():
    head = ridge(after=lambda network: nn.Sequential(*network, nn.Tanh()))
    fails(
        "must give the same scores", HeadContract().test_its_weights_can_be_saved_and_loaded_again, head, (6,)
    )


class Brighter(PixelEncoder):
    """Looks at the whole batch."""

    def pooled(self, x_BCHW):
        return super().pooled(x_BCHW - x_BCHW.mean())


def test_a_broken_encoder():
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    suite = EncoderContract()
    fails(
        "must not depend on the rest of its batch", suite.test_an_image_is_seen_by_itself, Brighter(), images
    )
    whole = PixelEncoder()
    whole.layers = ["pooled", "last"]
    fails("must return all layers", suite.test_layers_end_in_the_pooled_one, whole, images)
    whole = PixelEncoder()
    whole.pooled = lambda x_BCHW: x_BCHW
    fails("must be .B, D., averaged", suite.test_features_are_one_vector_an_image, whole, images)


class Keyed(Pixels):
    def stage(self, channels):
        stage = super().stage(channels)
        return type(stage)(**{**vars(stage), "config": {**stage.config, "label": self.label}})


def test_an_encoder_whose_label_makes_it_anew():
    fails(
        "the same network would be made twice",
        EncoderContract().test_its_stage_depends_on_neither_label_nor_layers,
        Keyed(),
    )


class Few(Gaussian):
    def make(self, material, draw):
        return {2: super().make(material, draw)[None]}


class Same(Gaussian):
    def make(self, material, draw):
        return {None: material.originals_KP[: self.networks]}


class Counted(Gaussian):
    def count(self):
        return 1


def test_a_broken_control():
    suite = ControlContract()
    make = suite.test_it_makes_as_many_networks_as_asked_for_of_each_setting
    fails("a setting must be a float", make, Few(networks=3))
    fails("expected 20 networks of 30 parameters", make, Same())
    fails("count.. must return the number of networks", make, Counted())
    fails(
        "what Control.make returned must not change its inputs",
        suite.test_what_it_returns_may_be_changed,
        Same(networks=3),
    )


@pytest.fixture
def register(monkeypatch):
    """Registers a part in a registry for one test."""

    def registered(registry, name, part):
        where = f"{__name__}:{name}"
        monkeypatch.setitem(globals(), name, part)
        monkeypatch.setitem(registry._known, name, where)

    return registered


def test_a_broken_data_set(register):
    readings = itertools.count()

    def shorter(config):
        source = read_digits(config)
        return Source.of(list(source.records)[next(readings) :], source.classes)

    def turned(config):
        source = read_digits(config)
        return Source.of(list(source.records)[:: (-1) ** next(readings)], source.classes)

    def numbered(config):
        source = read_digits(config)
        records = [record._replace(where="digit", split="dev") for record in source.records]
        return Source.of(records, source.classes)

    register(SOURCES, "shorter", shorter)
    register(SOURCES, "turned", turned)
    register(SOURCES, "numbered", numbered)
    suite = DataSetContract()
    order = suite.test_the_order_is_the_same_every_time
    fails("reading twice must give the same number of images", order, DataConfig(name="shorter"))
    fails("images must come in the same order", order, DataConfig(name="turned"))
    fails(
        "must be unique to each image", suite.test_messages_can_name_each_image, DataConfig(name="numbered")
    )
    fails("a split must be one of", suite.test_splits_have_known_names, DataConfig(name="numbered"))


def test_a_broken_edition(register):
    class Shortened(ParameterAutoencoder):
        def encode(self, vectors_NP):
            return super().encode(nn.functional.pad(vectors_NP[:, :-9], (0, 9)))

    class Short(Strided):
        def latent(self, settings, length):
            return settings["latent"] + 1

        def build(self, settings, length):
            return Shortened(
                length, settings["channels"], settings["kernel"], settings["latent"], settings["norm"]
            )

    register(AUTOENCODERS, "short", Short)
    settings = {"edition": "short", "channels": [3, 2], "decoder_channels": None, "kernel": 5, "latent": 4}
    suite = AutoencoderContract()
    fails(
        "numbers of a vector of length 64 that encode.. ignores",
        suite.test_every_number_of_a_vector_matters_both_ways,
        settings,
    )
    fails("latent.. must match the network", suite.test_sizes_are_known_without_the_network, settings)


@pytest.fixture
def tables():
    row = {"key": "a", "status": "ok", "features": "trained", "head": "linear", "validation_accuracy": 0.5}
    return from_arrow(
        {name: table.filled([row] if name == "features" else []) for name, table in studies.tables().items()}
    )


def test_a_broken_figure(tables):
    def figure(views):
        return Figure("Title", "Reading", "features", views)

    def bar(name, y):
        return Drawing([{"type": "bar", "x": [name], "y": [y]}], {})

    suite = FigureContract()
    fails("must be a sentence", suite.test_its_words, figure(None), tables)
    one = figure(lambda rows: [View({}, bar(rows.features["head"].iloc[0], 1.0))])
    fails("must be escaped with harness.report.words.label", suite.test_names_are_escaped, one, tables)
    nan = figure(lambda rows: [View({}, bar("x", float("nan")))])
    fails(
        "must be JSON, with None for what is missing",
        suite.test_its_views,
        nan,
        tables,
    )
    fails("without rows a figure must return Absent", suite.test_without_rows_it_is_absent, nan, tables)
    fails("if every trial failed", suite.test_if_every_trial_failed_it_is_absent, nan, tables)
    unlike = figure(lambda rows: [View({"pool": "1"}, bar("x", 1)), View({"head": "a"}, bar("x", 1))])
    fails("the same choice names", suite.test_its_views, unlike, tables)
