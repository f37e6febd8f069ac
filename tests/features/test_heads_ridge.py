"""Ridge regression against scikit-learn, and from sums against features."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Reference

from harness.features.heads.head import Labelled
from harness.features.heads.least_squares import Solution, Sums, solutions, solve, targets
from harness.features.heads.ridge import Ridge

STRENGTHS = [1e-3, 0.1, 10.0]


def problem(n=60, width=8, classes=4, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    x = draw.normal(size=(classes, width))[labels] + draw.normal(size=(n, width)) + 2.0
    return x.astype(np.float32), labels


def reference(x, labels, classes, strength):
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    return Reference(alpha=strength * len(x), solver="svd").fit(x.astype(np.float64), y)


@pytest.mark.parametrize("shape", [(60, 8), (20, 50), (20, 20), (30, 1)])
def test_it_is_scikit_learns(shape):
    x, labels = problem(*shape)
    for found in solutions(x, labels, 4, STRENGTHS):
        expected = reference(x, labels, 4, found.strength)
        np.testing.assert_allclose(found.weights_DC, expected.coef_.T, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.intercept_C, expected.intercept_, rtol=1e-6, atol=1e-9)


def sums_of(x, labels, classes):
    """The sums of one batch."""
    x, y = x.astype(np.float64), targets(labels, classes)
    return Sums(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)


def solutions_of_sums(sums, strengths):
    for strength, weights in zip(strengths, solve(*sums.centred(), sums.n, strengths), strict=True):
        yield Solution(strength, weights, sums.y_C / sums.n - sums.mean_D @ weights)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5))
def test_sums_over_any_batches_give_what_all_features_give(batches, seed):
    x, labels = problem(sum(batches), 7, 3, seed)
    cuts = np.cumsum([0, *batches])
    sums = sums_of(x[: cuts[1]], labels[: cuts[1]], 3)
    for begin, end in itertools.pairwise(cuts[1:]):
        more = sums_of(x[begin:end], labels[begin:end], 3)
        sums = Sums(*(one + other for one, other in zip(sums, more, strict=True)))
    np.testing.assert_allclose(sums.mean_D, x.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(sums.deviation_D, x.std(0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    for one, other in zip(
        solutions(x, labels, 3, STRENGTHS), solutions_of_sums(sums, STRENGTHS), strict=True
    ):
        assert one.strength == other.strength
        np.testing.assert_allclose(other.weights_DC, one.weights_DC, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(other.intercept_C, one.intercept_C, rtol=1e-7, atol=1e-9)


def test_a_feature_that_never_changes_gets_no_weight():
    x, labels = problem()
    x[:, 3] = 5.0
    for found in solutions(x, labels, 4, STRENGTHS):
        np.testing.assert_allclose(found.weights_DC[3], 0.0, atol=1e-12)


def test_a_stronger_penalty_makes_smaller_weights():
    x, labels = problem()
    norms = [np.linalg.norm(found.weights_DC) for found in solutions(x, labels, 4, sorted(STRENGTHS))]
    assert norms == sorted(norms, reverse=True)


def test_the_strength_is_the_one_that_is_right_most_often_on_validation():
    x, labels = problem(400, 40, 5)
    train, validation = Labelled(x[:60], labels[:60]), Labelled(x[60:], labels[60:])
    fitted = Ridge().fit(train, validation, 5, 0, "cpu")
    right = {
        strength: reference(train.x, train.labels_N, 5, strength).predict(validation.x).argmax(1)
        == validation.labels_N
        for strength in Ridge().strengths
    }
    assert np.mean(fitted.predict(validation.x) == validation.labels_N) == max(
        hits.mean() for hits in right.values()
    )
    assert right[fitted.regularisation].mean() == max(hits.mean() for hits in right.values())


def test_between_equals_the_smaller_error_counts():
    x = np.array([[-1.0], [1.0]] * 10, np.float32)
    easy = Labelled(x, np.arange(20) % 2)
    fitted = Ridge(strengths=[100.0, 1e-4, 1.0]).fit(easy, easy, 2, 0, "cpu")
    assert fitted.regularisation == 1e-4
    np.testing.assert_allclose(fitted.scores(x[:2]), [[1, -1], [-1, 1]], rtol=1e-3)


def test_one_decomposition_serves_all_strengths(monkeypatch):
    calls = []
    original = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: calls.append(tuple(a.shape)) or original(a))
    for shape, smaller in (((60, 8), 8), ((20, 50), 20)):
        calls.clear()
        assert len(list(solutions(*problem(*shape), 4, STRENGTHS))) == 3
        assert calls == [(smaller, smaller)]
