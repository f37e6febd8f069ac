"""Mean average precision, against scikit-learn; its interval, against repeated draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from harness.metrics import ranking
from harness.metrics.ranking import average_precisions, mean_average_precision

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 4))


def expected(scores, labels):
    """Returns scikit-learn's number for each class with a positive image."""
    return [
        average_precision_score(labels[:, k], scores[:, k]) if labels[:, k].any() else np.nan
        for k in range(scores.shape[1])
    ]


@given(st.data())
def test_each_class_has_scikit_learns_average_precision_ties_included(data):
    shape = data.draw(SHAPES)
    scores = data.draw(arrays(float, shape, elements=st.integers(-3, 3).map(float)))
    labels = data.draw(arrays(np.int8, shape, elements=st.integers(0, 1)))
    np.testing.assert_allclose(average_precisions(scores, labels), expected(scores, labels), atol=1e-12)
    if labels.any():
        found = mean_average_precision(scores, labels)
        assert found.value == pytest.approx(np.nanmean(expected(scores, labels)), abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.n == len(scores)


def draw(n, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, 5)) < (0.1, 0.2, 0.3, 0.2, 0.4)).astype(np.int8)
    return generator.normal(size=(n, 5)) + 1.2 * labels, labels


def test_an_image_that_is_drawn_twice_counts_twice():
    scores, labels = draw(60)
    scores = scores.round(1)
    weights = ranking._resamples(60)
    assert (weights.sum(0) == 60).all()
    found = ranking._weighted(scores, labels, weights)
    for column in range(10):
        chosen = np.repeat(np.arange(60), weights[:, column])
        np.testing.assert_allclose(found[:, column], expected(scores[chosen], labels[chosen]), atol=1e-12)


def test_the_interval_is_as_wide_as_the_mean_varies_over_draws():
    found = [mean_average_precision(*draw(400, seed)) for seed in range(60)]
    spread = 2 * 1.96 * np.std([one.value for one in found], ddof=1)
    assert np.mean([one.high - one.low for one in found]) == pytest.approx(spread, rel=0.25)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_92_times_in_100_of_200_images():
    """The mean of few images is a little high, so that its interval covers less than 95 times in 100."""
    truth = mean_average_precision(*draw(100_000, 1)).value
    found = [mean_average_precision(*draw(200, 2 + seed)) for seed in range(400)]
    assert np.mean([one.low <= truth <= one.high for one in found]) == pytest.approx(0.92, abs=0.04)


def test_the_same_scores_have_the_same_interval():
    assert mean_average_precision(*draw(50)) == mean_average_precision(*draw(50))


def test_what_has_no_ranking_is_refused():
    with pytest.raises(ValueError, match="without a positive image"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2), np.int8))
    with pytest.raises(ValueError, match="not finite"):
        mean_average_precision(np.full((3, 2), np.nan), np.ones((3, 2), np.int8))
