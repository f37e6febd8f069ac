"""Distances of sets of vectors: against closed forms, scipy's matrix root and loops."""

import itertools

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.frechet import Moments, frechet, kernel_distance, squared_mmd

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((40, 5)) @ RNG.standard_normal((5, 5)) + 3, RNG.standard_normal((30, 5))


def gaussian(mean, covariance):
    """Returns moments that have exactly this mean and covariance."""
    return Moments(2, np.array(mean, float), np.array(covariance, float))


@given(st.lists(st.integers(1, 39), unique=True), st.floats(-1e6, 1e6))
def test_moments_are_those_of_the_whole_wherever_it_is_cut(cuts, shift):
    parts = np.split(X + shift, sorted(cuts))
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    assert total.n == 40
    np.testing.assert_allclose(total.mean_D, X.mean(0) + shift, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(total.covariance_DD, np.cov(X.T), rtol=1e-6, atol=1e-8)


def test_equal_gaussians_have_no_distance():
    assert frechet(Moments.of(X), Moments.of(X)) == pytest.approx(0, abs=1e-10)


@given(*[st.lists(st.floats(0, 4), min_size=3, max_size=3) for _ in range(4)])
def test_diagonal_gaussians_differ_by_means_and_deviations(mean_a, deviation_a, mean_b, deviation_b):
    found = frechet(
        gaussian(mean_a, np.diag(np.square(deviation_a))), gaussian(mean_b, np.diag(np.square(deviation_b)))
    )
    expected = np.square(np.subtract(mean_a, mean_b)).sum()
    expected += np.square(np.subtract(deviation_a, deviation_b)).sum()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_it_is_the_formula_with_the_matrix_root():
    a, b = Moments.of(X), Moments.of(Y)
    root = scipy.linalg.sqrtm(a.covariance_DD @ b.covariance_DD).real
    expected = np.square(X.mean(0) - Y.mean(0)).sum() + np.trace(np.cov(X.T) + np.cov(Y.T) - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_fewer_vectors_than_dimensions_cost_no_digits():
    """Two flat Gaussians in perpendicular planes have no overlap at all; scaled ones have a known one."""
    flat = RNG.standard_normal((4, 50))
    assert frechet(Moments.of(flat), Moments.of(flat)) == pytest.approx(0, abs=1e-9)
    scaled = frechet(Moments.of(flat - flat.mean(0)), Moments.of(3 * (flat - flat.mean(0))))
    assert scaled == pytest.approx(4 * np.trace(np.cov(flat.T)), rel=1e-9)
    apart = gaussian([0, 0], [[2, 0], [0, 0]]), gaussian([0, 0], [[0, 0], [0, 5]])
    assert frechet(*apart) == pytest.approx(7)


def test_one_vector_has_no_covariance():
    with pytest.raises(ValueError, match="at least two"):
        frechet(Moments.of(X), Moments.of(Y[:1]))


def mmd_by_loops(x, y):
    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    within_x = [kernel(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)]
    within_y = [kernel(y[i], y[j]) for i, j in itertools.permutations(range(len(y)), 2)]
    across = [kernel(a, b) for a in x for b in y]
    return np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across)


def test_the_squared_mmd_is_that_of_loops():
    assert squared_mmd(X[:9], Y[:7]) == pytest.approx(mmd_by_loops(X[:9], Y[:7]), rel=1e-10)


def test_an_mmd_needs_two_vectors_of_each():
    with pytest.raises(ValueError, match="two of each"):
        squared_mmd(X, Y[:1])


def test_the_squared_mmd_is_unbiased():
    """Of equal distributions it is zero on average, so often below zero."""
    found = [squared_mmd(RNG.standard_normal((20, 3)), RNG.standard_normal((20, 3))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20
    assert min(found) < 0


def test_the_kernel_distance_averages_subsets_of_both():
    found = kernel_distance(X, Y, np.random.default_rng(5), subsets=7, size=10)
    draw = np.random.default_rng(5)
    by_hand = []
    for _ in range(7):
        x, y = X[draw.choice(40, 10, replace=False)], Y[draw.choice(30, 10, replace=False)]
        by_hand.append(mmd_by_loops(x, y))
    assert found.mean == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert found.deviation == pytest.approx(np.std(by_hand, ddof=1), rel=1e-6)


def test_subsets_of_small_sets_are_half_of_the_smaller():
    found = kernel_distance(X, Y, np.random.default_rng(5), subsets=3)
    draw = np.random.default_rng(5)
    pairs = [(X[draw.choice(40, 15, replace=False)], Y[draw.choice(30, 15, replace=False)]) for _ in range(3)]
    assert found.mean == pytest.approx(np.mean([mmd_by_loops(*pair) for pair in pairs]), rel=1e-9)
