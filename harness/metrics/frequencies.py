"""The share of high frequencies in feature maps: how much of them is detail, and noise."""

import numpy as np
import numpy.typing as npt

CUTOFF = 0.5  # of the Nyquist frequency


def high_frequency_ratio(maps_NCHW: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Returns the high-frequency ratio of each image's maps [N]: energy above the cutoff, over all energy.

    Energy is the squared magnitude of the two-dimensional discrete Fourier transform, summed over channels, the mean
    included. The frequency of a coefficient is its distance from the origin, the Nyquist frequency of either axis
    being 1; the cutoff is at 0.5. NaN for maps that are zero. After A-SelecT (arXiv 2603.25758), which takes the
    timestep of the largest ratio; the cutoff and the norm are ours.
    """
    energy_NCHW = np.square(np.abs(np.fft.fft2(maps_NCHW.astype(np.float64))))
    across_HW = np.hypot(*np.meshgrid(*(2 * np.fft.fftfreq(n) for n in maps_NCHW.shape[2:]), indexing="ij"))
    high_N = energy_NCHW[..., across_HW > CUTOFF].sum((1, 2))
    with np.errstate(invalid="ignore"):
        found: npt.NDArray[np.float64] = high_N / energy_NCHW.sum((1, 2, 3))
    return found
