"""Networks as vectors: there and back, normalised, and which of a pool are taken."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.weights.config import NetworkConfig
from harness.weights.layout import Layout, layout_of
from harness.weights.vectors import choose, flatten, normaliser, unflatten

SHAPES = st.dictionaries(
    st.text("abcde.", min_size=1, max_size=6),
    st.lists(st.integers(1, 4), max_size=4).map(tuple),
    min_size=1,
    max_size=5,
)


@given(SHAPES, st.integers(1, 3))
def test_vectors_hold_every_number_of_a_network_and_give_it_back(shapes, count):
    layout = layout_of(shapes, [""])
    draw = torch.Generator().manual_seed(0)
    networks = [
        {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} for _ in range(count)
    ]
    vectors = torch.stack([flatten(network, layout) for network in networks])
    assert vectors.shape == (count, layout.length)
    assert layout.length == sum(value.numel() for value in networks[0].values())
    back = unflatten(vectors, layout)
    for number, network in enumerate(networks):
        for name, value in network.items():
            assert torch.equal(back[name][number], value)


def test_a_layout_is_read_as_it_was_written(tmp_path):
    layout = layout_of({"b": (2, 3), "a": (), "é.c": (1,)}, [""])
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout


NETWORK = NetworkConfig(channels=[8, 8, 8]).parameter_shapes(1, 10)


def test_prefixes_choose_parameters_in_the_networks_order():
    layout = layout_of(NETWORK, ["norm3", "fc.bias", "norm2.weight"])
    assert layout.names == ("norm2.weight", "norm3.weight", "norm3.bias", "fc.bias")
    assert layout.sizes == [8, 8, 8, 10]
    assert layout_of(NETWORK, [""]).names == tuple(NETWORK)


def test_overlapping_prefixes_choose_a_parameter_once():
    assert layout_of(NETWORK, ["norm", "norm2", "norm2.weight"]).names == layout_of(NETWORK, ["norm"]).names


@pytest.mark.parametrize(
    ("prefixes", "words"), [(["norm9"], "'norm9'"), (["norm1", "cnv1"], "did you mean 'conv1")]
)
def test_a_prefix_that_names_nothing_is_refused_with_the_nearest(prefixes, words):
    with pytest.raises(UserError, match=r"weights\.parameters") as caught:
        layout_of(NETWORK, prefixes)
    assert words in str(caught.value)


LAYOUT = Layout(("a", "b", "c"), ((2, 3), (4,), ()))
POOL = (
    np.random.default_rng(0)
    .normal([5] * 6 + [-3] * 4 + [0], [2] * 6 + [0.1] * 4 + [7], (9, 11))
    .astype(np.float32)
)


def test_each_tensor_is_normalised_to_mean_0_and_deviation_1():
    normal = normaliser(POOL, LAYOUT).normalise(POOL)
    assert normal.dtype == np.float32
    for piece in (normal[:, :6], normal[:, 6:10], normal[:, 10:]):
        assert piece.mean() == pytest.approx(0, abs=1e-5)
        assert piece.std() == pytest.approx(1, abs=1e-5)


def test_normalising_is_undone():
    scale = normaliser(POOL, LAYOUT)
    np.testing.assert_allclose(scale.restore(scale.normalise(POOL)), POOL, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_never_varies_becomes_zero_and_comes_back():
    pool = POOL.copy()
    pool[:, 6:10] = 0.25
    scale = normaliser(pool, LAYOUT)
    np.testing.assert_array_equal(scale.normalise(pool)[:, 6:10], 0)
    np.testing.assert_array_equal(scale.restore(scale.normalise(pool))[:, 6:10], 0.25)


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
        assert np.diff(chosen).max() - np.diff(chosen).min() <= 1


@given(st.integers(1, 100))
def test_all_of_a_pool_are_all_however_they_are_taken(size):
    for subset in ("first", "strided", "random"):
        np.testing.assert_array_equal(choose(size, size, subset, np.random.default_rng(1)), range(size))


def test_random_subsets_differ_between_draws_and_reach_everywhere():
    subsets = [choose(20, 5, "random", np.random.default_rng(seed)) for seed in range(60)]
    assert len({tuple(subset) for subset in subsets}) > 50
    assert set(np.concatenate(subsets)) == set(range(20))
