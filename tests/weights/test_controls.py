"""The contract of controls, and what each of them does. A control that is added needs one line in `CASES`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.core.config import parse, part_of
from harness.core.errors import UserError
from harness.weights.config import WeightsConfig
from harness.weights.controls import (
    CONTROLS,
    TRAJECTORIES,
    AbsoluteNoise,
    Average,
    DecodedGaussian,
    FineTuned,
    Gaussian,
    Material,
    Noise,
    OtherSeed,
)
from harness.weights.layout import Layout
from harness.weights.vectors import normaliser

CASES = {
    "noise": {"name": "noise", "networks": 7, "scales": [0.1, 0.5]},
    "absolute_noise": {"name": "absolute_noise", "networks": 7, "scales": [0.1, 0.5]},
    "gaussian": {"name": "gaussian", "networks": 7},
    "average": {"name": "average", "networks": 7, "of": 4},
    "decoded_gaussian": {"name": "decoded_gaussian", "networks": 7},
    "fine_tuned": {"name": "fine_tuned", "networks": 7, "every": 2, "learning_rate": 0.1},
    "other_seed": {"name": "other_seed", "networks": 7},
}
DRAW = np.random.default_rng(0)
LAYOUT = Layout(("a", "b"), ((5, 4), (10,)))
RAW = DRAW.normal(2, 3, (12, 30)).astype(np.float32)
FURTHER = {"other_seed": DRAW.normal(size=(9, 30)), "fine_tuned": DRAW.normal(size=(7, 30))}
MIXING = DRAW.normal(size=(30, 4)).astype(np.float32)


def material_of(raw=RAW, layout=LAYOUT):
    """Originals with a linear autoencoder of four numbers, and the trajectories that a study may add."""
    scale = normaliser(raw, layout)
    return Material(
        originals_KP=scale.normalise(raw),
        layout=layout,
        scale=scale,
        encode=lambda vectors: vectors @ MIXING,
        decode=lambda latents: latents @ MIXING.T,
        other_seed_OP=FURTHER["other_seed"].astype(np.float32),
        fine_tuned_FP=FURTHER["fine_tuned"].astype(np.float32),
    )


@pytest.fixture(params=CONTROLS.names())
def control(request):
    """Every registered control."""
    assert request.param in CASES, f"add a line for control {request.param!r} to CASES"
    return parse(WeightsConfig, {"controls": [CASES[request.param]]}, "weights").controls[0]


def made(control, seed=0, raw=RAW):
    return control.make(material_of(raw), np.random.default_rng(seed))


def test_a_control_carries_its_registered_name(control):
    assert CONTROLS.load(control.name) is type(control)
    assert type(control).model_fields["name"].default == control.name


def test_a_controls_values_survive_the_journey_to_a_worker(control):
    values = json.loads(json.dumps(control.keyed()))
    assert part_of(CONTROLS, values).keyed() == values


def test_a_control_makes_as_many_networks_as_asked_for_of_each_setting(control):
    groups = made(control)
    assert groups
    for setting, vectors in groups.items():
        assert setting is None or isinstance(setting, float)
        assert vectors.shape == (7, 30)
        assert np.isfinite(vectors).all()
    assert control.count() == sum(len(vectors) for vectors in groups.values())


def test_a_control_says_which_trajectories_it_needs(control):
    assert set(control.needs) <= set(TRAJECTORIES)
    bare = replace(material_of(), other_seed_OP=None, fine_tuned_FP=None)
    if control.needs:
        with pytest.raises(ValueError, match="has not provided the trajectory"):
            control.make(bare, np.random.default_rng(0))
    else:
        assert control.make(bare, np.random.default_rng(0))


def test_a_control_is_the_same_for_the_same_draw_and_another_for_another(control):
    one, same, other = made(control), made(control), made(control, seed=1)
    for setting in one:
        np.testing.assert_array_equal(one[setting], same[setting])
        assert bool(control.needs) == np.array_equal(one[setting], other[setting])


def test_a_control_leaves_its_material_alone(control):
    material = material_of()
    for array in (material.originals_KP, material.other_seed_OP, material.fine_tuned_FP):
        array.flags.writeable = False
    assert control.make(material, np.random.default_rng(0))


def test_a_control_imposes_nothing_on_what_it_returns(control):
    """What is returned may be changed: the originals and the trajectories stay as they are."""
    material, untouched = material_of(), material_of()
    for vectors in control.make(material, np.random.default_rng(0)).values():
        vectors += 1
    np.testing.assert_array_equal(material.originals_KP, untouched.originals_KP)
    np.testing.assert_array_equal(material.other_seed_OP, untouched.other_seed_OP)


@pytest.mark.parametrize("count", [1, 2])
def test_a_control_bears_few_originals(control, count):
    for vectors in made(control, raw=RAW[:count]).values():
        assert vectors.shape == (7, 30)
        assert np.isfinite(vectors).all()


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
