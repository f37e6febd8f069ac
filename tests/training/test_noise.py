"""Random numbers by address: the published answers, and the same numbers however they are asked for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.training.noise import integers, normal, philox, uniform

WORD = 2**32
ONES = 0xFFFFFFFF
KNOWN = [  # Random123 1.14, kat_vectors, "philox4x32 10": counter, key, answer
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def by_hand(counter, key):
    """Philox4x32-10 in Python's integers, after Salmon et al. 2011, section 3.3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second // WORD ^ c[1] ^ k[0], second % WORD, first // WORD ^ c[3] ^ k[1], first % WORD]
        k = [(k[0] + 0x9E3779B9) % WORD, (k[1] + 0xBB67AE85) % WORD]
    return tuple(c)


def drawn(counter, key):
    words = philox(tuple(torch.tensor([c]) for c in counter), key[0] + WORD * key[1])
    return tuple(int(word) for word in words)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_known_answers_come_out(counter, key, answer):
    assert drawn(counter, key) == answer
    assert by_hand(counter, key) == answer


WORDS = st.integers(0, ONES)


@given(st.tuples(WORDS, WORDS, WORDS, WORDS), st.tuples(WORDS, WORDS))
def test_tensors_and_pythons_integers_agree(counter, key):
    assert drawn(counter, key) == by_hand(counter, key)


def test_numpys_philox_is_another_one():
    """NumPy has the 4x64 variant, so nothing here may be replaced by it without changing every number."""
    assert np.random.Philox(counter=0, key=0).random_raw(1)[0] % WORD != KNOWN[0][2][0]


def addresses(*rows):
    return torch.tensor(rows)


ADDRESS = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 100))


@given(st.lists(ADDRESS, min_size=1, max_size=40), st.integers(0, 2**64 - 1), st.integers(1, 70))
def test_a_draw_is_the_same_to_the_bit_alone_and_in_any_batch(rows, key, count):
    together = normal(key, addresses(*rows), (count,))
    turned = normal(key, addresses(*rows[::-1]), (count,)).flip(0)
    alone = torch.cat([normal(key, addresses(row), (count,)) for row in rows])
    assert torch.equal(together, alone)
    assert torch.equal(together, turned)


@given(ADDRESS, st.integers(1, 40), st.integers(0, 40))
def test_a_longer_draw_begins_like_a_shorter_one(row, count, more):
    longer = uniform(7, addresses(row), count + more)
    assert torch.equal(longer[:, :count], uniform(7, addresses(row), count))


def test_uniforms_follow_from_the_words_in_order_of_the_address():
    key = 5 + 9 * WORD
    words = [word for block in range(2) for word in by_hand((block, 3, 14, 15), (5, 9))]
    expected = [((word >> 9) + 0.5) / 2**23 for word in words[:7]]
    np.testing.assert_allclose(uniform(key, addresses((3, 14, 15)), 7)[0], expected, rtol=0, atol=1e-7)


def test_normals_are_box_and_mullers():
    u = uniform(1, addresses((1, 2, 3)), 6)[0].double().view(3, 2)
    radius, angle = (-2 * u[:, 0].log()).sqrt(), 2 * math.pi * u[:, 1]
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).flatten()
    torch.testing.assert_close(
        normal(1, addresses((1, 2, 3)), (6,))[0].double(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (1, 5, 5), (3, 8, 8)])
def test_normals_have_the_shape_asked_for(shape):
    found = normal(0, addresses((0, 0, 0), (1, 0, 0)), shape)
    assert found.shape == (2, *shape)
    assert found.dtype == torch.float32


MANY = torch.stack([torch.arange(4000), torch.full((4000,), 50), torch.zeros(4000, dtype=torch.long)], 1)


def test_normals_are_normal():
    drawn = normal(3, MANY, (50,)).double().numpy().ravel()
    n = len(drawn)
    assert abs(drawn.mean()) < 5 / math.sqrt(n)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs(stats.skew(drawn)) < 5 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(drawn)) < 5 * math.sqrt(24 / n)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_uniforms_are_uniform_and_never_0_or_1():
    drawn = uniform(3, MANY, 50).numpy().ravel()
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_the_largest_and_smallest_word_stay_inside():
    for word in (0, ONES):
        value = ((torch.tensor(word) >> 9).to(torch.float32) + 0.5) * 2.0**-23
        assert 0 < value < 1
        assert torch.isfinite(torch.log(value))


def test_neighbours_are_not_correlated():
    """Images, timesteps, draws, keys and places within an image, one step apart."""
    base = normal(3, MANY, (4,))
    steps = [MANY + torch.tensor(step) for step in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    others = [normal(3, address, (4,)) for address in steps] + [normal(4, MANY, (4,)), base.roll(1, 1)]
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 5 / math.sqrt(base.numel())


def test_all_addresses_have_their_own_numbers():
    rows = [(i, t, d) for i in range(6) for t in (0, 1, 999) for d in range(3)]
    found = normal(0, addresses(*rows), (4,)).numpy()
    assert len({row.tobytes() for row in found}) == len(rows)


@settings(max_examples=20)
@given(st.integers(1, 2000))
def test_integers_stay_below_their_limit(high):
    found = integers(1, MANY[:200], high)
    assert found.dtype == torch.int64
    assert int(found.min()) >= 0
    assert int(found.max()) < high


def test_integers_are_evenly_spread():
    counts = np.bincount(integers(1, MANY, 10).numpy(), minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-3
