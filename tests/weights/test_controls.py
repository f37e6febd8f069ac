"""The contract of controls, and what each of them does. A control that is added needs one line in `CASES`."""

import json

import numpy as np
import pytest

from harness.core.config import parse
from harness.core.errors import UserError
from harness.weights.config import WeightsConfig
from harness.weights.controls import CONTROLS, Average, Gaussian, Noise

CASES = {
    "noise": {"name": "noise", "networks": 7, "scales": [0.1, 0.5]},
    "gaussian": {"name": "gaussian", "networks": 7},
    "average": {"name": "average", "networks": 7, "of": 4},
}
ORIGINALS = np.random.default_rng(0).normal(2, 3, (12, 30)).astype(np.float32)


@pytest.fixture(params=CONTROLS.names())
def control(request):
    """Every registered control."""
    assert request.param in CASES, f"add a line for control {request.param!r} to CASES"
    return parse(WeightsConfig, {"controls": [CASES[request.param]]}, "weights").controls[0]


def made(control, seed=0, originals=ORIGINALS):
    return control.make(originals.copy(), np.random.default_rng(seed))


def test_a_control_carries_its_registered_name(control):
    assert CONTROLS.load(control.name) is type(control)
    assert type(control).model_fields["name"].default == control.name


def test_a_controls_values_survive_the_journey_to_a_worker(control):
    values = json.loads(json.dumps(control.keyed()))
    assert CONTROLS.load(control.name).model_validate(values).keyed() == values


def test_a_control_makes_as_many_networks_as_asked_for_of_each_setting(control):
    groups = made(control)
    assert groups
    for setting, vectors in groups.items():
        assert setting is None or isinstance(setting, float)
        assert vectors.shape == (7, 30)
        assert np.isfinite(vectors).all()


def test_a_control_is_the_same_for_the_same_draw_and_another_for_another(control):
    one, same, other = made(control), made(control), made(control, seed=1)
    for setting in one:
        np.testing.assert_array_equal(one[setting], same[setting])
        assert not np.array_equal(one[setting], other[setting])


def test_a_control_leaves_the_originals_alone(control):
    originals = ORIGINALS.copy()
    control.make(originals, np.random.default_rng(0))
    np.testing.assert_array_equal(originals, ORIGINALS)


@pytest.mark.parametrize("count", [1, 2])
def test_a_control_bears_few_originals(control, count):
    for vectors in made(control, originals=ORIGINALS[:count]).values():
        assert vectors.shape == (7, 30)
        assert np.isfinite(vectors).all()


def test_noise_has_the_scale_asked_for_around_an_original():
    originals = np.random.default_rng(1).normal(0, 100, (5, 4000)).astype(np.float32)
    groups = Noise(networks=6, scales=[0.001, 0.5]).make(originals, np.random.default_rng(0))
    assert list(groups) == [0.001, 0.5]
    for scale, vectors in groups.items():
        nearest = [min((vector - original).std() for original in originals) for vector in vectors]
        np.testing.assert_allclose(nearest, scale, rtol=0.06)


def test_a_gaussian_has_each_coordinates_own_mean_and_deviation():
    originals = np.random.default_rng(1).normal([0, 5, -3], [1, 0.1, 4], (50, 3))
    (vectors,) = Gaussian(networks=20_000).make(originals, np.random.default_rng(0)).values()
    np.testing.assert_allclose(vectors.mean(0), originals.mean(0), atol=0.15)
    np.testing.assert_allclose(vectors.std(0), originals.std(0), rtol=0.05)
    correlation = np.corrcoef(vectors.T)
    np.testing.assert_allclose(correlation - np.eye(3), 0, atol=0.04)


def test_an_average_is_that_of_as_many_different_originals():
    originals = np.eye(12)
    (vectors,) = Average(networks=9, of=4).make(originals, np.random.default_rng(0)).values()
    for vector in vectors:
        np.testing.assert_allclose(np.sort(vector), [0] * 8 + [0.25] * 4)
    assert len({vector.tobytes() for vector in vectors}) > 1


def test_an_average_of_more_than_there_are_is_that_of_all():
    (vectors,) = Average(networks=2, of=16).make(ORIGINALS, np.random.default_rng(0)).values()
    np.testing.assert_allclose(vectors, np.stack([ORIGINALS.mean(0)] * 2), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("noize", "did you mean 'noise'?"),
        ({"name": "noise", "scales": []}, "scales"),
        ({"name": "noise", "scales": [0.0]}, "scales.0"),
        ({"name": "average", "of": 1}, "of = 1"),
        ({"name": "gaussian", "networks": 0}, "networks = 0"),
        ({"name": "gaussian", "scales": [1.0]}, "unknown key 'scales'"),
    ],
)
def test_bad_controls_are_refused(values, words):
    with pytest.raises(UserError) as caught:
        parse(WeightsConfig, {"controls": [values]}, "weights")
    assert words in str(caught.value)
