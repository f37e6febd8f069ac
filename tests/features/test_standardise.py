"""Means and deviations do not depend on batches, and constants are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.features import lazy
from harness.features.lazy import LazyFeatures
from harness.features.standardise import moments, standardised


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 50),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, -3.0, 1e4]),
)
def test_moments_are_those_of_all_samples_in_any_batches(count, batch, seed, offset):
    x = np.random.default_rng(seed).normal(offset, 2.0, (count, 3, 2, 2)).astype(np.float32)
    x[:, 1, 0, 0] = 0.1 + offset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "BATCH_NUMBERS", batch * 12)
        found = moments(LazyFeatures(x.shape, lambda rows_B: x[rows_B]))
        same = moments(x)
    for one, other in zip(found, same, strict=True):
        np.testing.assert_array_equal(one, other)
    deviation = x.std(0, dtype=np.float64)
    np.testing.assert_allclose(found.mean, x.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.scale, np.where(deviation > 1e-6, deviation, 1), rtol=1e-6)
    assert found.scale[1, 0, 0] == 1
    assert found.constant_share == (1 if count == 1 else pytest.approx(1 / 12))
    assert found.mean.dtype == found.scale.dtype == np.float32


def test_what_is_read_is_standardised():
    x = np.random.default_rng(0).normal(3, 7, (500, 4)).astype(np.float32)
    x[:, 2] = 1.5
    z = standardised(x, moments(x))[:]
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(0), [1, 1, 0, 1], atol=1e-5)
