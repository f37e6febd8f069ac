"""The contract suite on every control, and what each does. A control that is added needs one line in `CASES`."""

from dataclasses import replace

import numpy as np
import pytest

from harness.core.config import parse
from harness.core.errors import UserError
from harness.testing.controls import FURTHER, MIXING, ControlContract, made, material_of
from harness.weights.config import WeightsConfig
from harness.weights.controls import (
    CONTROLS,
    AbsoluteNoise,
    Average,
    DecodedGaussian,
    FineTuned,
    Gaussian,
    Noise,
    OtherSeed,
)
from harness.weights.layout import Layout

CASES = {
    "noise": {"name": "noise", "networks": 7, "scales": [0.1, 0.5]},
    "absolute_noise": {"name": "absolute_noise", "networks": 7, "scales": [0.1, 0.5]},
    "gaussian": {"name": "gaussian", "networks": 7},
    "average": {"name": "average", "networks": 7, "of": 4},
    "decoded_gaussian": {"name": "decoded_gaussian", "networks": 7},
    "fine_tuned": {"name": "fine_tuned", "networks": 7, "every": 2, "learning_rate": 0.1},
    "other_seed": {"name": "other_seed", "networks": 7},
}


class TestControls(ControlContract):
    """Every registered control."""

    @pytest.fixture(params=CONTROLS.names())
    def control(self, request):
        assert request.param in CASES, f"add a line for control {request.param!r} to CASES"
        return parse(WeightsConfig, {"controls": [CASES[request.param]]}, "weights").controls[0]

    def test_another_draw_makes_other_networks_unless_they_were_collected(self, control):
        one, other = made(control), made(control, seed=1)
        for setting in one:
            assert bool(control.needs) == np.array_equal(one[setting], other[setting])


def test_latents_are_encoded_only_for_who_asks():
    def refuse(array):
        raise AssertionError("nobody needs the autoencoder")

    material = replace(material_of(), encode=refuse, decode=refuse)
    for name in set(CASES) - {"decoded_gaussian"}:
        CONTROLS.load(name)().make(material, np.random.default_rng(0))
    with pytest.raises(AssertionError, match="nobody needs"):
        DecodedGaussian().make(material, np.random.default_rng(0))


WIDE = np.random.default_rng(1).normal(0, [[100.0] * 2000 + [0.1] * 2000] * 5).astype(np.float32)
WIDE_LAYOUT = Layout(("a", "b"), ((2000,), (2000,)))


def test_noise_has_the_scale_asked_for_around_an_original():
    material = material_of(WIDE, WIDE_LAYOUT)
    groups = Noise(networks=6, scales=[0.001, 0.5]).make(material, np.random.default_rng(0))
    assert list(groups) == [0.001, 0.5]
    for scale, vectors in groups.items():
        nearest = [min((vector - original).std() for original in material.originals_KP) for vector in vectors]
        np.testing.assert_allclose(nearest, scale, rtol=0.06)


def test_absolute_noise_has_the_scale_asked_for_on_parameters_as_they_are():
    """Whatever the parameters' own deviation: 100 for one tensor, .1 for the other."""
    material = material_of(WIDE, WIDE_LAYOUT)
    groups = AbsoluteNoise(networks=6, scales=[0.01, 5.0]).make(material, np.random.default_rng(0))
    assert list(groups) == [0.01, 5.0]
    for scale, vectors in groups.items():
        for vector in material.scale.restore(vectors):
            gaps = min(vector - WIDE, key=lambda gap: np.abs(gap).sum())
            np.testing.assert_allclose([gaps[:2000].std(), gaps[2000:].std()], scale, rtol=0.06)


def test_a_gaussian_has_each_coordinates_own_mean_and_deviation():
    raw = np.random.default_rng(1).normal([0, 5, -3], [1, 0.1, 4], (50, 3))
    material = material_of(raw, Layout(("a",), ((3,),)))
    originals = material.originals_KP
    (vectors,) = Gaussian(networks=20_000).make(material, np.random.default_rng(0)).values()
    np.testing.assert_allclose(vectors.mean(0), originals.mean(0), atol=0.03)
    np.testing.assert_allclose(vectors.std(0), originals.std(0), rtol=0.05)
    correlation = np.corrcoef(vectors.T)
    np.testing.assert_allclose(correlation - np.eye(3), 0, atol=0.04)


def test_an_average_is_that_of_as_many_different_originals():
    material = replace(material_of(), originals_KP=np.eye(12))
    (vectors,) = Average(networks=9, of=4).make(material, np.random.default_rng(0)).values()
    for vector in vectors:
        np.testing.assert_allclose(np.sort(vector), [0] * 8 + [0.25] * 4)
    assert len({vector.tobytes() for vector in vectors}) > 1


def test_an_average_of_more_than_there_are_is_that_of_all():
    material = material_of()
    (vectors,) = Average(networks=2, of=16).make(material, np.random.default_rng(0)).values()
    np.testing.assert_allclose(vectors, np.stack([material.originals_KP.mean(0)] * 2), atol=1e-5)


def test_decoded_latents_have_the_mean_and_deviation_of_the_originals_latents():
    material = material_of()
    (vectors,) = DecodedGaussian(networks=20_000).make(material, np.random.default_rng(0)).values()
    latents = vectors @ np.linalg.pinv(MIXING.T)
    expected = material.originals_KP @ MIXING
    np.testing.assert_allclose(latents.mean(0), expected.mean(0), atol=0.04 * expected.std())
    np.testing.assert_allclose(latents.std(0), expected.std(0), rtol=0.05)
    assert np.linalg.matrix_rank(vectors[:50], tol=1e-3) == 4


@pytest.mark.parametrize(
    ("kind", "networks", "places"),
    [
        (OtherSeed, 3, [0, 4, 8]),
        (OtherSeed, 9, range(9)),
        (OtherSeed, 1, [8]),
        (FineTuned, 7, range(7)),
        (FineTuned, 4, [0, 2, 4, 6]),
    ],
)
def test_checkpoints_are_taken_as_they_are_and_evenly_spread(kind, networks, places):
    control = kind(networks=networks)
    (vectors,) = made(control).values()
    np.testing.assert_array_equal(vectors, FURTHER[control.name].astype(np.float32)[list(places)])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("noize", "did you mean 'noise'?"),
        ({"name": "noise", "scales": []}, "scales"),
        ({"name": "noise", "scales": [0.0]}, "scales.0"),
        ({"name": "average", "of": 1}, "of = 1"),
        ({"name": "absolute_noise", "scales": [-1.0]}, "scales.0"),
        ({"name": "fine_tuned", "every": 0}, "every = 0"),
        ({"name": "fine_tuned", "learning_rate": 0.0}, "learning_rate = 0.0"),
        ("other_seeds", "did you mean 'other_seed'?"),
        ({"name": "gaussian", "networks": 0}, "networks = 0"),
        ({"name": "gaussian", "scales": [1.0]}, "unknown key 'scales'"),
        ({"name": "noise", "scales": [0.5, 1.0, 0.5]}, "scales = [0.5, 1.0, 0.5]: 0.5 is given twice"),
        ({"name": "absolute_noise", "scales": [1.0, 1.0]}, "1.0 is given twice"),
        ({"name": "gaussian", "networks": 10**9}, "networks = 1000000000"),
    ],
)
def test_bad_controls_are_refused(values, words):
    with pytest.raises(UserError) as caught:
        parse(WeightsConfig, {"controls": [values]}, "weights")
    assert words in str(caught.value)
