"""CKA against the estimator written out with its n x n matrices, and the laws that it keeps."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.cka import Moments, _from_grams, cka


def song(k, l):  # noqa: E741
    """Unbiased HSIC of two kernels: Song et al. 2012, equation 5, word for word."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def written_out(x, y):
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return song(k, l) / math.sqrt(song(k, k) * song(l, l))


def by_quadruples(x, y):
    """HSIC as the mean over all ordered quadruples of images (Song et al. 2012, equation 6)."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    values = [
        k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return np.mean(values)


def accumulated(representations, edges):
    moments = Moments()
    for begin, end in itertools.pairwise(edges):
        moments.add([x[begin:end] for x in representations])
    return moments


def drawn(seed, images=40, widths=(3, 7, 20), shift=0.0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(images, 3))
    return [
        common @ rng.normal(size=(3, width)) + rng.normal(size=(images, width)) + shift for width in widths
    ]


@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize("widths", [(1, 2), (3, 7, 20), (60, 5)])
def test_both_ways_are_the_full_computation(widths, shift):
    representations = drawn(1, widths=widths, shift=shift)
    expected = [[written_out(x, y) for y in representations] for x in representations]
    tolerance = 1e-10 * max(1.0, shift**2)  # of the formula written out: it subtracts large numbers
    for found in (
        accumulated(representations, [0, 40]).cka(),
        _from_grams(representations),
        cka(representations),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(np.diag(found), 1, atol=1e-12)


def test_hsic_is_the_mean_over_quadruples_of_images():
    x, y = drawn(2, images=7, widths=(2, 3))
    hsic = accumulated([x, y], [0, 7]).hsic()
    assert hsic[0, 1] == pytest.approx(by_quadruples(x, y), abs=1e-12)
    assert hsic[1, 1] == pytest.approx(by_quadruples(y, y), abs=1e-12)


@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 39), max_size=12, unique=True),
    shift=st.floats(-100, 100),
)
def test_minibatches_may_be_cut_anywhere(seed, cuts, shift):
    representations = drawn(seed, shift=shift)
    whole = accumulated(representations, [0, 40]).cka()
    parts = accumulated(representations, [0, *sorted(cuts), 40]).cka()
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-9)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 50))
def test_gram_matrices_may_be_cut_anywhere(seed, rows):
    representations = drawn(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.metrics.cka.TILE_NUMBERS", rows * 40 * 3)
        np.testing.assert_allclose(
            _from_grams(representations), accumulated(representations, [0, 40]).cka(), atol=1e-10
        )


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_rotation_scale_and_shift_change_nothing(seed, scale, shift):
    x, y = drawn(seed, widths=(6, 4))
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    found = cka([x, y, scale * (x @ rotation) + shift * scale])
    assert found[0, 2] == pytest.approx(1, abs=1e-9)
    assert found[1, 2] == pytest.approx(found[1, 0], abs=1e-9)


@pytest.mark.parametrize("images", [30, 300])
def test_independent_features_have_none_on_average(images):
    """The biased estimate would be far from 0 with 30 images of 40 features, and say less with more."""
    rng = np.random.default_rng(3)
    values = [
        cka([rng.normal(size=(images, 40)), rng.normal(size=(images, 40))])[0, 1]
        for _ in range(4000 // images)
    ]
    deviation = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * deviation < 0.1


def test_a_constant_has_no_cka():
    x = drawn(4, widths=(3,))[0]
    for constant in (np.zeros((40, 2)), np.full((40, 50), 0.1, np.float32)):
        for found in (accumulated([x, constant], [0, 13, 40]).cka(), _from_grams([x, constant])):
            assert found[0, 0] == pytest.approx(1)
            assert np.isnan(found[[0, 1, 1], [1, 0, 1]]).all()


@pytest.mark.parametrize("width", [1, 10])
def test_three_images_are_too_few(width):
    with pytest.raises(ValueError, match="needs 4 images, got 3"):
        cka([np.ones((3, width)), np.ones((3, width))])


def test_float32_features_lose_nothing():
    representations = [x.astype(np.float32) for x in drawn(5)]
    np.testing.assert_allclose(
        cka(representations), cka([x.astype(np.float64) for x in representations]), atol=1e-12
    )
