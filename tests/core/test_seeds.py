"""Streams of randomness depend on the seed and their name alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.core.seeds import derive_seed, rng

NAMES = st.lists(st.text("abcdefgh", min_size=1) | st.integers(0, 1000), min_size=1, max_size=3)


@given(st.integers(0, 2**63 - 1), NAMES)
def test_a_stream_is_a_64_bit_number_that_does_not_change(seed, names):
    first = derive_seed(seed, *names)
    assert 0 <= first < 2**64
    assert first == derive_seed(seed, *names)


def test_streams_of_other_names_or_seeds_differ():
    names = [(), ("split",), ("order",), ("order", 0), ("order", 1), ("order", 10)]
    seeds = [derive_seed(seed, *name) for seed in range(50) for name in names]
    assert len(set(seeds)) == len(seeds)


def test_a_stream_has_its_known_value():
    # The little-endian BLAKE2b digest, of 8 bytes, of "0/split". Another value would change every result.
    assert derive_seed(0, "split") == 0xDE1C0B8C4E6B0F36


def test_drawing_from_one_stream_does_not_move_another():
    alone = rng(3, "b").standard_normal(5)
    rng(3, "a").standard_normal(1000)
    np.testing.assert_array_equal(rng(3, "b").standard_normal(5), alone)
    assert not np.array_equal(rng(3, "a").standard_normal(5), alone)
