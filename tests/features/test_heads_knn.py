"""k nearest neighbours against a loop."""

import numpy as np
import pytest

from harness.features.heads.head import Labelled
from harness.features.heads.knn import KNN


def cloud(n, seed, classes=3):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    x = np.random.default_rng(9).normal(size=(classes, 2, 2, 2))[labels] + draw.normal(size=(n, 2, 2, 2))
    return Labelled(x.astype(np.float32), labels)


def by_loop(train, x_ND, k, classes, temperature):
    scores = np.zeros((len(x_ND), classes))
    bank = train.x_ND / np.linalg.norm(train.x_ND, axis=1, keepdims=True)
    for place, x in enumerate(x_ND):
        similarity = bank @ x / np.linalg.norm(x)
        for nearest in np.argsort(-similarity)[:k]:
            scores[place, train.labels_N[nearest]] += np.exp((similarity[nearest] - 1) / temperature)
    return scores


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_nearest_vote(k):
    train, validation = cloud(40, 0), cloud(30, 1)
    head = KNN(neighbours=[k], temperature=0.3)
    fitted = head.fit(train, validation, 3, 0, "cpu")
    expected = by_loop(train, validation.x_ND, k, 3, 0.3)
    np.testing.assert_allclose(fitted.scores(validation.x), expected, rtol=1e-4)
    assert fitted.regularisation == k


@pytest.mark.parametrize("size", [30, 300])
def test_k_is_chosen_on_validation(size):
    train, validation = cloud(60, 2), cloud(size, 3)
    head = KNN(neighbours=[50, 1, 10])
    fitted = head.fit(train, validation, 3, 0, "cpu")
    marks = {}
    for k in head.neighbours:
        scores = by_loop(train, validation.x_ND, k, 3, head.temperature)
        share = scores[np.arange(size), validation.labels_N] / scores.sum(1)
        marks[k] = (np.mean(scores.argmax(1) == validation.labels_N), share.mean())
    assert fitted.regularisation == max(marks, key=marks.get)


def test_more_neighbours_than_images_means_all_of_them():
    train = cloud(7, 0)
    fitted = KNN(neighbours=[50, 100]).fit(train, cloud(5, 1), 3, 0, "cpu")
    assert fitted.regularisation == 7


def test_the_length_of_a_feature_does_not_count():
    train, validation = cloud(40, 0), cloud(30, 1)
    fitted = KNN().fit(train, validation, 3, 0, "cpu")
    np.testing.assert_allclose(fitted.scores(8 * validation.x), fitted.scores(validation.x), rtol=1e-5)


def test_an_empty_bank_says_nothing_and_takes_the_size_of_what_is_loaded():
    module = KNN().module((2, 2, 2), 3)
    assert module.bank_ND.shape == (0, 8)
    fitted = KNN().fit(cloud(11, 0), cloud(5, 1), 3, 0, "cpu")
    module.load_state_dict(fitted.module.state_dict())
    assert module.bank_ND.shape == (11, 8)
    assert not list(module.parameters())
