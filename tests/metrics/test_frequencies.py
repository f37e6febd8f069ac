"""The high-frequency ratio: against a transform written out, on waves of known frequency, and on noise."""

import numpy as np
import pytest

from harness.metrics.frequencies import high_frequency_ratio


def by_loops(maps_CHW):
    """The definition, coefficient by coefficient."""
    channels, height, width = maps_CHW.shape
    y, x = np.mgrid[:height, :width]
    high = whole = 0.0
    for channel in range(channels):
        for v in range(height):
            for u in range(width):
                wave = np.exp(-2j * np.pi * (v * y / height + u * x / width))
                energy = abs((maps_CHW[channel] * wave).sum()) ** 2
                across = np.hypot(2 * min(v, height - v) / height, 2 * min(u, width - u) / width)
                whole += energy
                high += energy * (across > 0.5)
    return high / whole


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 5, 6), (2, 1, 1, 1)])
def test_it_is_what_the_definition_says(shape):
    maps = np.random.default_rng(0).normal(0.5, 1, shape).astype(np.float32)
    np.testing.assert_allclose(
        high_frequency_ratio(maps), [by_loops(one) for one in maps], rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(("periods", "expected"), [(1, 0.0), (4, 0.0), (5, 1.0), (8, 1.0)])
def test_a_wave_is_high_above_half_of_the_nyquist_frequency(periods, expected):
    wave = np.cos(2 * np.pi * periods * np.arange(16) / 16)
    maps = np.broadcast_to(wave, (1, 1, 16, 16))
    assert high_frequency_ratio(maps)[0] == pytest.approx(expected, abs=1e-9)
    along = np.swapaxes(maps, 2, 3)
    assert high_frequency_ratio(along)[0] == pytest.approx(expected, abs=1e-9)


def test_noise_has_the_share_of_its_coefficients_and_a_mean_lowers_it():
    noise = np.random.default_rng(1).normal(0, 1, (40, 8, 16, 16))
    flat = high_frequency_ratio(noise).mean()
    assert flat == pytest.approx(1 - np.pi / 16, abs=0.03), "outside a disc of half the width"
    assert high_frequency_ratio(noise + 1).mean() == pytest.approx(flat / 2, abs=0.03)


def test_maps_of_zeros_have_none():
    assert np.isnan(high_frequency_ratio(np.zeros((1, 2, 4, 4)))[0])
