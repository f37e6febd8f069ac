"""Similarity of networks, against loops over sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from harness.metrics import similarity
from harness.metrics.similarity import error_iou, most_similar_other, pack, root_mean_square_distance


def iou_by_sets(a, b):
    sets_a, sets_b = ([set(np.flatnonzero(row)) for row in rows] for rows in (a, b))
    return [[len(x & y) / len(x | y) if x | y else 1.0 for y in sets_b] for x in sets_a]


MASKS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.just(n))) for _ in range(2)))
)


@given(MASKS)
def test_the_matrix_product_is_the_double_loop_over_sets(masks):
    np.testing.assert_allclose(error_iou(*masks), iou_by_sets(*masks), rtol=1e-6, atol=0)


@given(MASKS)
def test_alikeness_is_mutual_lies_between_0_and_1_and_is_1_with_oneself(masks):
    found = error_iou(*masks)
    np.testing.assert_array_equal(found, error_iou(*masks[::-1]).T)
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(np.diag(error_iou(masks[0], masks[0])), 1.0)


@given(MASKS)
def test_packed_masks_are_as_good_as_booleans(masks):
    expected = error_iou(*masks)
    np.testing.assert_array_equal(error_iou(*map(pack, masks)), expected)
    np.testing.assert_array_equal(error_iou(pack(masks[0]), masks[1]), expected)
    assert all(pack(pack(mask)).nbytes == len(mask) * -(-mask.shape[1] // 8) for mask in masks)


def test_similarities_do_not_depend_on_how_samples_are_cut(monkeypatch):
    draw = np.random.default_rng(0)
    a, b = draw.random((5, 203)) < 0.3, draw.random((4, 203)) < 0.3
    whole = error_iou(a, b), error_iou(a, a)
    monkeypatch.setattr(similarity, "BYTES_AT_ONCE", 3)
    np.testing.assert_array_equal(error_iou(a, b), whole[0])
    np.testing.assert_array_equal(error_iou(a, a), whole[1])
    np.testing.assert_array_equal(error_iou(a, a.copy()), whole[1])


def test_two_that_are_never_wrong_are_alike():
    wrong = np.array([[False, False], [True, False]])
    np.testing.assert_array_equal(error_iou(wrong, wrong), [[1, 0], [0, 1]])


def test_counts_are_exact_for_many_samples():
    n = 3_000_001
    wrong = np.ones((2, n), bool)
    wrong[1, 0] = False
    assert error_iou(wrong, wrong)[0, 1] == np.float32(n - 1) / np.float32(n) != 1.0


def test_distances_are_those_of_scipy():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(5, 12)), draw.normal(size=(7, 12))
    np.testing.assert_allclose(root_mean_square_distance(a, b), cdist(a, b) / np.sqrt(12))
    np.testing.assert_array_equal(np.diag(root_mean_square_distance(a, a)), 0)


def test_distances_of_near_duplicates_do_not_drown_in_rounding():
    a = np.full((1, 4), 1000.0, np.float32)
    b = a + np.float32(2**-10)
    assert root_mean_square_distance(a, b)[0, 0] == pytest.approx(2**-10)


@given(st.integers(0, 2**32 - 1), st.floats(-8, 4), st.floats(-8, 4))
def test_distances_are_exact_from_copies_to_strangers(seed, near, far):
    """Copies a little off, of vectors far from zero, among vectors that lie far apart."""
    draw = np.random.default_rng(seed)
    b = 10.0**far * draw.normal(size=(4, 9)) + 100 * draw.normal(size=9)
    a = np.concatenate([b + 10.0**near * draw.normal(size=b.shape), draw.normal(size=(2, 9)), b])
    expected = np.sqrt(np.square(a[:, None] - b[None]).mean(2))
    np.testing.assert_allclose(root_mean_square_distance(a, b), expected, rtol=1e-6, atol=0)


def test_distances_do_not_depend_on_how_vectors_are_cut(monkeypatch):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(11, 6)).astype(np.float32), draw.normal(size=(3, 6)).astype(np.float32)
    a[::2] = b[0]
    whole = root_mean_square_distance(a, b)
    monkeypatch.setattr(similarity, "NUMBERS_AT_ONCE", 13)
    np.testing.assert_allclose(root_mean_square_distance(a, b), whole, rtol=1e-12)
    assert root_mean_square_distance(a[:0], b).shape == (0, 3)


@given(hnp.arrays(np.float64, st.integers(2, 6).map(lambda n: (n, n)), elements=st.floats(-10, 10)))
def test_the_most_similar_other_is_never_oneself(values):
    n = len(values)
    expected = [max(values[i, j] for j in range(n) if j != i) for i in range(n)]
    np.testing.assert_array_equal(most_similar_other(values), expected)


def test_looking_for_the_most_similar_other_changes_nothing():
    values = np.ones((3, 3))
    most_similar_other(values)
    np.testing.assert_array_equal(values, 1)


def test_who_is_alone_has_no_most_similar_other():
    assert np.isnan(most_similar_other(np.ones((1, 1)))).all()
    assert most_similar_other(np.ones((0, 0))).shape == (0,)
