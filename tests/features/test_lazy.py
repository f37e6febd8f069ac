"""Features that are read when they are indexed are indexed like the arrays that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.features import lazy
from harness.features.lazy import LazyFeatures, batches, changed, in_memory, joined, part, places


def numbered(count, shape=(2, 3), first=0):
    size = int(np.prod(shape))
    return (first + np.arange(count * size, dtype=np.float32)).reshape(count, *shape)


def read(x):
    return LazyFeatures(x.shape, lambda rows_B: x[rows_B])


@given(
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)),
    chosen=st.lists(st.integers(0, 10**6), max_size=8),
)
def test_parts_and_joined_samples_are_those_of_the_array(counts, chosen):
    begin, size, more = counts
    first, second = numbered(begin + size + 2), numbered(more, first=1000)
    array = np.concatenate([first[begin : begin + size], second])
    x = joined(part(read(first), begin, begin + size), read(second))
    assert (x.shape, len(x)) == (array.shape, len(array))
    np.testing.assert_array_equal(x[:], array)
    np.testing.assert_array_equal(x[1:4], array[1:4])
    if len(array):
        rows = np.array(chosen, int) % len(array)
        np.testing.assert_array_equal(x[rows], array[rows])


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 9))
def test_batches_are_all_samples_once_and_none_is_too_large(count, numbers, most):
    x = numbered(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "BATCH_NUMBERS", numbers)
        found = list(batches(read(x), most))
        np.testing.assert_array_equal(in_memory(read(x)), x)
        assert [place for place, _ in found] == places(x, most), "the same for an array of that shape"
    for place, x_B in found:
        np.testing.assert_array_equal(x_B, x[place])
        assert len(x_B) <= most
        assert len(x_B) == 1 or x_B.size <= numbers
    assert sum(len(x_B) for _, x_B in found) == count


def test_a_change_is_made_to_what_is_read_alone():
    seen = []
    x = changed(read(numbered(9)), lambda x_B: seen.append(len(x_B)) or 2 * x_B)
    assert not seen
    np.testing.assert_array_equal(x[np.array([7, 1])], 2 * numbered(9)[[7, 1]])
    assert seen == [2]


@pytest.mark.parametrize("index", [np.array([0, 9]), np.array([-1]), 3, np.array([[1]])])
def test_samples_that_there_are_not_are_refused(index):
    with pytest.raises(IndexError):
        read(numbered(9))[index]
