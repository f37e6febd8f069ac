"""Is it new? Against SciPy, against leaving one out K times, and on vectors that are made to be copies or fresh."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from harness.metrics.copying import (
    copying_z,
    distance_to_mean,
    distance_to_mean_of_others,
    is_new,
    newness_threshold,
    off_span,
    off_span_of_others,
    variance_ratio,
)
from harness.metrics.similarity import root_mean_square_distance

SAMPLES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)


@given(SAMPLES, SAMPLES)
def test_z_is_that_of_scipys_mann_whitney_test_with_ties(generated, held_out):
    found = copying_z(np.array(generated), np.array(held_out))
    if len(set(generated + held_out)) == 1:
        assert found == 0
        return
    test = mannwhitneyu(generated, held_out, alternative="less", method="asymptotic", use_continuity=False)
    assert norm.cdf(found) == pytest.approx(test.pvalue, abs=1e-12)
    middle = len(generated) * len(held_out) / 2
    assert np.sign(found) == np.sign(test.statistic - middle)


@given(SAMPLES, SAMPLES)
def test_z_changes_its_sign_with_the_sides_and_sees_only_the_order(generated, held_out):
    g, h = np.array(generated), np.array(held_out)
    assert copying_z(g, h) == pytest.approx(-copying_z(h, g))
    assert copying_z(np.exp(g), np.exp(h)) == pytest.approx(copying_z(g, h))


def test_z_by_hand():
    """All of 3 below all of 4: U = 0, mean 6, variance 3 * 4 * 8 / 12 = 8."""
    assert copying_z(np.array([1.0, 2, 3]), np.array([4.0, 5, 6, 7])) == pytest.approx(-6 / np.sqrt(8))


@pytest.mark.parametrize(
    ("generated", "held_out"), [([], [1.0]), ([1.0], []), ([np.nan, 1.0], [2.0]), ([1.0], [np.nan])]
)
def test_without_distances_there_is_no_z(generated, held_out):
    assert np.isnan(copying_z(np.array(generated), np.array(held_out)))


def test_the_threshold_leaves_one_of_twenty_held_out_below():
    held_out = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert newness_threshold(held_out) == 50
    assert np.isnan(newness_threshold(np.zeros(0)))


def test_the_variance_ratio_is_that_of_the_mean_squared_distances_between_pairs():
    draw = np.random.default_rng(0)
    generated, originals = draw.normal(3, 2, (6, 5)), draw.normal(size=(9, 5))
    pairs = [
        np.mean([np.square(a - b).sum() for i, a in enumerate(x) for b in x[:i]])
        for x in (generated, originals)
    ]
    assert variance_ratio(generated, originals) == pytest.approx(pairs[0] / pairs[1])


def test_the_variance_ratio_of_what_does_not_vary():
    varying = np.arange(6.0).reshape(3, 2)
    assert variance_ratio(np.ones((3, 2)), varying) == 0
    assert np.isnan(variance_ratio(varying, np.ones((3, 2))))
    assert np.isnan(variance_ratio(varying[:1], varying))
    assert np.isnan(variance_ratio(varying, varying[:1]))


def test_distances_to_the_mean_of_others_leave_oneself_out():
    originals = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    expected = [
        distance_to_mean(originals[[i]], np.delete(originals, i, 0).astype(np.float64))[0] for i in range(7)
    ]
    np.testing.assert_allclose(distance_to_mean_of_others(originals), expected)
    assert expected[0] == pytest.approx(
        np.sqrt(np.mean([(originals[0, p] - originals[1:, p].mean()) ** 2 for p in range(4)]))
    )
    assert np.isnan(distance_to_mean_of_others(originals[:1])).all()


def residual_share(vector, originals):
    """The same by least squares."""
    mean = originals.mean(0)
    gap, basis = vector - mean, (originals - mean).T
    residual = gap - basis @ np.linalg.lstsq(basis, gap, rcond=1e-9)[0]
    return np.square(residual).sum() / np.square(gap).sum()


SHAPES = pytest.mark.parametrize(
    ("k", "p"), [(3, 2), (3, 40), (6, 40), (12, 5), (30, 29), (29, 30), (40, 300)]
)


@SHAPES
def test_off_span_is_the_residual_of_least_squares(k, p):
    draw = np.random.default_rng(k * p)
    originals, vectors = draw.normal(size=(k, p)), draw.normal(2, 1, size=(9, p))
    vectors[0] = draw.dirichlet(np.ones(k)) @ originals
    expected = [residual_share(vector, originals) for vector in vectors]
    found = off_span(vectors, originals)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert found[0] == pytest.approx(0, abs=1e-8)


@SHAPES
def test_off_span_of_others_is_that_of_leaving_each_out(k, p):
    originals = np.random.default_rng(k + p).normal(5, 2, size=(k, p))
    expected = [residual_share(originals[i], np.delete(originals, i, 0)) for i in range(k)]
    np.testing.assert_allclose(off_span_of_others(originals), expected, atol=1e-8)


def test_an_original_that_others_mix_is_in_their_span_and_one_that_stands_out_is_not():
    draw = np.random.default_rng(0)
    originals = draw.normal(size=(8, 20))
    originals[3] = originals[[0, 1]].mean(0)  # 0, 1 and 3 lie on a line: each is a mixture of the other two
    found = off_span_of_others(originals)
    np.testing.assert_allclose(found[[0, 1, 3]], 0, atol=1e-9)
    expected = [residual_share(originals[i], np.delete(originals, i, 0)) for i in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert found[[2, 4, 5, 6, 7]].min() > 0.1


def test_directions_of_who_has_none_are_unknown():
    draw = np.random.default_rng(0)
    originals = draw.normal(100, 1, size=(10, 6)).astype(np.float32)
    mean = originals.mean(0, keepdims=True)
    assert np.isnan(off_span(mean, originals)).all()
    assert np.isnan(off_span(mean + 1, originals[:1])).all()
    assert np.isnan(off_span_of_others(originals[:2])).all()
    same = np.repeat(mean, 4, 0)
    assert np.isnan(off_span_of_others(same)).all()
    assert off_span(mean + 1, same) == 1


def cloud(draw, count):
    """Draws of one Gaussian with some directions longer than others."""
    return (draw.normal(size=(count, 60)) * np.geomspace(3, 0.1, 60)).astype(np.float32)


def verdict(generated, originals, held_out):
    """Returns Z_U, the z of distances to the mean, the share of new ones and the variance ratio."""
    to_generated, to_held_out = (
        root_mean_square_distance(x, originals).min(1) for x in (generated, held_out)
    )
    to_mean = [distance_to_mean(x, originals) for x in (generated, held_out)]
    new = (to_generated >= newness_threshold(to_held_out)).mean()
    return (
        copying_z(to_generated, to_held_out),
        copying_z(*to_mean),
        new,
        variance_ratio(generated, originals),
    )


@pytest.fixture(params=range(3))
def draw(request):
    """Three streams of draws."""
    return np.random.default_rng(request.param)


def test_copies_are_found(draw):
    originals, held_out = cloud(draw, 100), cloud(draw, 20)
    copies = originals[draw.integers(100, size=50)] + 0.001 * cloud(draw, 50)
    z, mean_z, new, ratio = verdict(copies, originals, held_out)
    assert z < -6  # all of 50 below all of 20: -6.45
    assert abs(mean_z) < 3
    assert new == 0
    assert ratio == pytest.approx(1, abs=0.25)


def test_averages_are_found(draw):
    originals, held_out = cloud(draw, 100), cloud(draw, 20)
    averages = np.stack([originals[draw.choice(100, 16, replace=False)].mean(0) for _ in range(50)])
    z, mean_z, _, ratio = verdict(averages, originals, held_out)
    assert mean_z < -6
    assert z < -3
    assert ratio == pytest.approx(1 / 16 * (1 - 16 / 100), rel=0.3)
    assert off_span(averages, originals[:40]).min() > 1e-3
    np.testing.assert_allclose(off_span(averages, originals), 0, atol=1e-8)


def test_fresh_draws_are_new(draw):
    z, mean_z, new, ratio = verdict(cloud(draw, 50), cloud(draw, 100), cloud(draw, 20))
    assert abs(z) < 3
    assert abs(mean_z) < 3
    assert new > 0.75
    assert ratio == pytest.approx(1, abs=0.25)


def test_far_noise_is_far(draw):
    originals = cloud(draw, 100)
    far = originals[draw.integers(100, size=50)] + draw.normal(0, 5, (50, 60))
    z, mean_z, new, ratio = verdict(far, originals, cloud(draw, 20))
    assert z > 6
    assert mean_z > 6
    assert new == 1
    assert ratio > 2


def walk(draw, steps):
    """A training: correlated steps, of which neighbours are near-duplicates."""
    return np.cumsum(draw.normal(size=(steps, 60)), 0).astype(np.float32)


def test_checkpoints_left_out_of_a_trajectory_look_like_fresh_ones(draw):
    """Held out are those of every tenth step; "generated" are others of the same steps."""
    path = walk(draw, 400)
    step = np.arange(400)
    originals, held_out, others = path[step % 10 > 1], path[step % 10 == 0], path[step % 10 == 1]
    z, mean_z, new, _ = verdict(others, originals, held_out)
    assert abs(z) < 3.5
    assert abs(mean_z) < 3.5
    assert new > 0.75
    z, _, new, _ = verdict(originals[::9] + 0.05 * draw.normal(size=(36, 60)), originals, held_out)
    assert z < -6
    assert new == 0


def test_originals_compared_with_each_other_stand_in_for_fresh_draws(draw):
    originals, generated = cloud(draw, 60), cloud(draw, 60)
    between = root_mean_square_distance(originals, originals)
    np.fill_diagonal(between, np.inf)
    left_out = between.min(1)
    assert abs(copying_z(root_mean_square_distance(generated, originals).min(1), left_out)) < 3
    copies = root_mean_square_distance(originals + 0.01 * generated, originals).min(1)
    assert copying_z(copies, left_out) < -8


def test_a_distance_equal_to_the_threshold_is_new_whatever_the_rounding():
    threshold = 0.3
    near = threshold * (1 + np.array([-3e-5, -1e-12, 0, 1e-12, 3e-5]))
    assert is_new(near, threshold).all()
    assert not is_new(threshold * (1 - 1e-3), threshold)
    assert not is_new(np.array([np.nan, 1.0]), float("nan")).any()
