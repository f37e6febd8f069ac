"""Networks as vectors, normalised, and which of a set of checkpoints are taken."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.weights.layout import Layout
from harness.weights.vectors import choose, normaliser, withheld

LAYOUT = Layout(("a", "b", "c"), ((2, 3), (4,), ()))
CHECKPOINTS = (
    np.random.default_rng(0)
    .normal([5] * 6 + [-3] * 4 + [0], [2] * 6 + [0.1] * 4 + [7], (9, 11))
    .astype(np.float32)
)


def test_each_tensor_is_normalised_to_mean_0_and_deviation_1():
    normal = normaliser(CHECKPOINTS, LAYOUT).normalise(CHECKPOINTS)
    assert normal.dtype == np.float32
    for piece in (normal[:, :6], normal[:, 6:10], normal[:, 10:]):
        assert piece.mean() == pytest.approx(0, abs=1e-5)
        assert piece.std() == pytest.approx(1, abs=1e-5)


def test_normalising_is_undone():
    scale = normaliser(CHECKPOINTS, LAYOUT)
    np.testing.assert_allclose(scale.restore(scale.normalise(CHECKPOINTS)), CHECKPOINTS, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_never_varies_becomes_zero_and_comes_back():
    checkpoints = CHECKPOINTS.copy()
    checkpoints[:, 6:10] = 0.25
    scale = normaliser(checkpoints, LAYOUT)
    np.testing.assert_array_equal(scale.normalise(checkpoints)[:, 6:10], 0)
    np.testing.assert_array_equal(scale.restore(scale.normalise(checkpoints))[:, 6:10], 0.25)


SIZES = st.integers(1, 400).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))


@given(SIZES, st.sampled_from(["first", "strided", "random"]), st.integers(0, 5))
def test_a_subset_is_k_different_checkpoints_in_their_order(size_and_k, subset, seed):
    size, k = size_and_k
    chosen = choose(size, k, subset, np.random.default_rng(seed))
    assert len(chosen) == k
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < size
    assert chosen.dtype.kind == "i"
    np.testing.assert_array_equal(chosen, choose(size, k, subset, np.random.default_rng(seed)))


@given(SIZES)
def test_the_first_are_the_oldest(size_and_k):
    np.testing.assert_array_equal(
        choose(*size_and_k, "first", np.random.default_rng(0)), range(size_and_k[1])
    )


@given(SIZES)
def test_strides_are_even_and_reach_from_the_first_to_the_last(size_and_k):
    size, k = size_and_k
    chosen = choose(size, k, "strided", np.random.default_rng(0))
    assert chosen[-1] == size - 1
    if k > 1:
        assert chosen[0] == 0
        assert np.diff(chosen).max() <= 2 * np.diff(chosen).min() + 1


@given(SIZES, st.sampled_from(["first", "strided", "random"]), st.integers(0, 5))
def test_a_smaller_subset_is_part_of_a_larger_one(size_and_k, subset, seed):
    size, k = size_and_k
    chosen = [set(choose(size, n, subset, np.random.default_rng(seed))) for n in range(1, k + 1)]
    assert all(small < large for small, large in pairwise(chosen))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_checkpoints_are_withheld_evenly(total_and_count):
    total, count = total_and_count
    places = np.flatnonzero(withheld(total, count))
    assert len(places) == count
    if count > 1:
        assert np.diff(places).max() - np.diff(places).min() <= 1
    if count:
        assert abs(places[0] - (total - 1 - places[-1])) <= total / count


@given(st.integers(1, 100))
def test_all_of_a_set_are_all_however_they_are_taken(size):
    for subset in ("first", "strided", "random"):
        np.testing.assert_array_equal(choose(size, size, subset, np.random.default_rng(1)), range(size))


def test_random_subsets_differ_between_draws_and_reach_everywhere():
    subsets = [choose(20, 5, "random", np.random.default_rng(seed)) for seed in range(60)]
    assert len({tuple(subset) for subset in subsets}) > 50
    assert set(np.concatenate(subsets)) == set(range(20))
