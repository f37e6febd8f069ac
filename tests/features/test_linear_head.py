"""The linear probe is scikit-learn's logistic regression, its strength chosen on validation."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from harness.features.heads import principal_axes
from harness.features.heads.head import Labelled
from harness.features.heads.linear import Linear
from harness.features.heads.logistic import solve
from harness.features.heads.principal_axes import PrincipalAxes
from harness.features.lazy import LazyFeatures


def synthetic(n, d, classes, informative, seed, separation=1.0):
    return make_classification(
        n + 1000,
        d,
        n_informative=informative,
        n_redundant=min(2, d - informative),
        n_classes=classes,
        n_clusters_per_class=1,
        class_sep=separation,
        flip_y=0.05,
        random_state=seed,
    )


def digits():
    return load_digits(return_X_y=True)


PROBLEMS = {
    "many samples": (lambda: synthetic(400, 10, 5, 6, 0), 400),
    "many features": (lambda: synthetic(60, 200, 4, 12, 1), 60),
    "as many": (lambda: synthetic(50, 50, 3, 8, 2), 50),
    "hardly separable": (lambda: synthetic(300, 8, 3, 4, 3, 0.3), 300),
    "separable": (lambda: make_blobs(1300, 6, centers=5, random_state=0), 300),
    "digits, ten labels a class": (digits, 100),
    "digits": (digits, 800),
}
STRENGTHS = [1e-3, 1e-1, 1.0]


@cache
def problem(name):
    make, n = PROBLEMS[name]
    x, y = make()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.int64)
    x = StandardScaler().fit(x[:n]).transform(x).astype(np.float32)
    return Labelled(x[:n], y[:n]), Labelled(x[n:], y[n:]), int(y.max()) + 1


def reference(train, strength):
    """Scikit-learn's solution; two classes share one vector there, so its C is twice as large."""
    place = (id(train.x), strength)
    if place not in known:
        two = 2 if train.labels_N.max() == 1 else 1
        model = LogisticRegression(C=two / (strength * len(train.labels_N)), tol=1e-6, max_iter=20_000)
        known[place] = model.fit(train.x_ND.astype(np.float64), train.labels_N), train.x
    return known[place][0]


known = {}  # solutions, with their features so that nothing else gets their id


def coefficients(train, classes, strength):
    axes = PrincipalAxes(train.x, "cpu")
    solved = solve(axes, train.labels_N, classes, strength, "cpu")
    weights_DC = axes.weights(torch.from_numpy(solved[:-1])).numpy()
    return weights_DC, solved[-1] - axes.mean_D.numpy() @ weights_DC


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_predictions_are_scikit_learns(name, strength):
    train, test, classes = problem(name)
    expected = reference(train, strength).predict(test.x_ND)
    fitted = Linear(strengths=[strength]).fit(train, test, classes, 0, "cpu")
    assert fitted.regularisation == strength
    assert np.mean(fitted.predict(test.x_ND) == expected) >= 0.995


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_coefficients_and_the_minimum_are_scikit_learns(name, strength):
    train, _, classes = problem(name)
    model = reference(train, strength)
    weights_DC, intercept_C = coefficients(train, classes, strength)
    expected_C = model.intercept_ - model.intercept_.mean()
    assert np.abs(weights_DC - model.coef_.T).max() < 0.03 * np.abs(model.coef_).max()
    assert np.abs(intercept_C - intercept_C.mean() - expected_C).max() < 0.03 * (1 + np.abs(expected_C).max())
    least = objective(model.coef_.T, model.intercept_, train, strength)
    assert objective(weights_DC, intercept_C, train, strength) < least + 1e-5


def test_two_classes_are_scikit_learns_with_its_c_doubled():
    x, y = synthetic(200, 6, 2, 4, 5)
    train, test = Labelled(x[:200].astype(np.float32), y[:200]), Labelled(x[200:].astype(np.float32), y[200:])
    fitted = Linear(strengths=[0.01]).fit(train, test, 2, 0, "cpu")
    assert np.mean(fitted.predict(test.x_ND) == reference(train, 0.01).predict(test.x_ND)) >= 0.995


def objective(weights_DC, intercept_C, train, strength):
    logits = train.x_ND.astype(np.float64) @ weights_DC + intercept_C
    top = logits.max(1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return -log_p[np.arange(len(logits)), train.labels_N].mean() + strength / 2 * np.square(weights_DC).sum()


@pytest.mark.parametrize("name", ["many samples", "many features", "digits"])
def test_nothing_nearby_is_better(name):
    train, _, classes = problem(name)
    weights_DC, intercept_C = coefficients(train, classes, 0.01)
    best = objective(weights_DC, intercept_C, train, 0.01)
    draw = np.random.default_rng(0)
    for scale in (1e-1, 1e-2):
        for _ in range(10):
            moved = weights_DC + scale * draw.normal(size=weights_DC.shape)
            assert objective(moved, intercept_C, train, 0.01) > best


@pytest.mark.parametrize(
    "name", ["many samples", "many features", "hardly separable", "digits, ten labels a class"]
)
def test_the_strength_is_that_of_the_best_validation_accuracy(name):
    train, rest, classes = problem(name)
    validation = Labelled(rest.x_ND[:300], rest.labels_N[:300])
    strengths = [1e-4, 1e-2, 1e-1, 1.0, 10.0]
    fitted = Linear(strengths=strengths).fit(train, validation, classes, 0, "cpu")
    scores = {s: reference(train, s).score(validation.x_ND, validation.labels_N) for s in strengths}
    assert fitted.regularisation in strengths
    assert scores[fitted.regularisation] >= max(scores.values()) - 1.5 / 300
    predicted = reference(train, fitted.regularisation).predict(validation.x_ND)
    assert np.mean(fitted.predict(validation.x_ND) == predicted) >= 0.99


def test_noisy_labels_call_for_more_strength_than_clean_ones():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(1100, 60)).astype(np.float32)
    y = (x[:, :3] @ draw.normal(size=(3, 3))).argmax(1)
    noisy = np.where(draw.random(1100) < 0.5, draw.integers(0, 3, 1100), y)
    chosen = {}
    for kind, labels in (("clean", y), ("noisy", noisy)):
        train, validation = Labelled(x[:100], labels[:100]), Labelled(x[100:], y[100:])
        head = Linear(strengths=[1e-4, 1e-2, 1.0])
        chosen[kind] = head.fit(train, validation, 3, 0, "cpu").regularisation
    assert chosen["noisy"] > 1e-4
    assert chosen["noisy"] >= chosen["clean"]


def test_between_equals_cross_entropy_on_validation_decides():
    """Blobs far apart: every strength is always right, so the one that is surer of it is chosen."""
    x, y = make_blobs(400, 2, centers=[(-9, 0), (9, 0), (0, 9)], random_state=0)
    x = x.astype(np.float32)
    train, validation = Labelled(x[:200], y[:200]), Labelled(x[200:], y[200:])
    strengths = [1e-4, 1e-2, 1.0]
    surest = min(
        strengths,
        key=lambda s: (
            -reference(train, s)
            .predict_log_proba(validation.x_ND)[np.arange(200), validation.labels_N]
            .mean()
        ),
    )
    assert all(reference(train, s).score(validation.x_ND, validation.labels_N) == 1 for s in strengths)
    assert Linear(strengths=strengths).fit(train, validation, 3, 0, "cpu").regularisation == surest


def test_the_order_of_strengths_does_not_matter():
    train, rest, classes = problem("many features")
    first = Linear(strengths=[1.0, 1e-3, 1e-1]).fit(train, rest, classes, 0, "cpu")
    second = Linear(strengths=[1e-3, 1e-1, 1.0]).fit(train, rest, classes, 0, "cpu")
    assert first.regularisation == second.regularisation
    np.testing.assert_array_equal(first.predict(rest.x_ND), second.predict(rest.x_ND))


@pytest.mark.parametrize("held", [2**29, 0])
@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (20, 20)])
def test_principal_axes_are_orthonormal_and_span_the_features(shape, held, monkeypatch):
    monkeypatch.setattr(principal_axes, "HELD_BYTES", held)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    axes = PrincipalAxes(x, "cpu")
    ranks = len(axes.squares_R)
    axes_DR = axes.weights(torch.eye(ranks, dtype=torch.float64)).numpy()
    z_NR = torch.cat([z_BR for _, z_BR in axes.along()]).numpy()
    np.testing.assert_allclose(axes_DR.T @ axes_DR, np.eye(ranks), atol=1e-8)
    np.testing.assert_allclose(z_NR @ axes_DR.T + axes.mean_D.numpy(), x, atol=1e-5)
    np.testing.assert_allclose((x - axes.mean_D.numpy()) @ axes_DR, z_NR, atol=1e-9)
    products_RR = np.diag(axes.squares_R.numpy())
    np.testing.assert_allclose(z_NR.T @ z_NR, products_RR, atol=1e-8 * products_RR.max())


@pytest.mark.parametrize("name", ["many samples", "digits"])
def test_features_read_again_at_every_step_lead_to_the_same_minimum(name, monkeypatch):
    train, _, classes = problem(name)
    held = coefficients(train, classes, 0.01)
    monkeypatch.setattr(principal_axes, "HELD_BYTES", 0)
    read = coefficients(train, classes, 0.01)
    for one, other in zip(held, read, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * np.abs(one).max())
    x = LazyFeatures(train.x.shape, lambda rows_B: train.x[rows_B])
    for one, other in zip(coefficients(train._replace(x=x), classes, 0.01), read, strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_that_say_nothing_give_the_commonest_class():
    train = Labelled(np.zeros((10, 3), np.float32), np.array([0, 1, 1, 1, 2, 1, 1, 0, 1, 1]))
    fitted = Linear().fit(train, train, 3, 0, "cpu")
    np.testing.assert_array_equal(fitted.predict(np.zeros((4, 3), np.float32)), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_an_error(bad):
    x = np.zeros((4, 2), np.float32)
    x[1, 1] = bad
    with pytest.raises(FloatingPointError, match="not finite"):
        Linear().fit(Labelled(x, np.arange(4) % 2), Labelled(x, np.arange(4) % 2), 2, 0, "cpu")
