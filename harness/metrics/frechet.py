"""Distances between two sets of vectors: the Fréchet distance of Gaussians, and the kernel distance."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KERNEL_SUBSETS = 100  # of Bińkowski et al. 2018
KERNEL_SUBSET = 1000


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of vectors; moments of parts add up to those of the whole.

    Added as in Chan, Golub & LeVeque (1983), so that neither the cuts nor a large mean lose precision.
    """

    n: int
    mean_D: np.ndarray  # float64
    scatter_DD: np.ndarray  # float64: sum of (x - mean)(x - mean)'

    @staticmethod
    def of(x_ND: np.ndarray) -> "Moments":
        """Returns the moments of vectors [N, D], N at least 1."""
        x_ND = np.asarray(x_ND, np.float64)
        mean_D = x_ND.mean(0)
        centred_ND = x_ND - mean_D
        return Moments(len(x_ND), mean_D, centred_ND.T @ centred_ND)

    def __add__(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets together."""
        n = self.n + other.n
        gap_D = other.mean_D - self.mean_D
        scatter_DD = self.scatter_DD + other.scatter_DD + np.outer(gap_D, gap_D) * (self.n * other.n / n)
        return Moments(n, self.mean_D + gap_D * (other.n / n), scatter_DD)

    @property
    def covariance_DD(self) -> np.ndarray:
        """The unbiased covariance; raises `ValueError` for a single vector."""
        if self.n < 2:
            raise ValueError("one vector has no covariance; give at least two")
        return self.scatter_DD / (self.n - 1)


def frechet(a: Moments, b: Moments) -> float:
    """Returns |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), the squared Fréchet distance of two Gaussians.

    Heusel et al. 2017, equation 6: the FID, if the vectors are Inception's. The trace of the root is computed as the
    sum of the singular values of C1^½ C2^½, which is accurate for singular covariances too, such as those of fewer
    vectors than dimensions.
    """
    first_DD, second_DD = _root(a.covariance_DD), _root(b.covariance_DD)
    overlap = np.linalg.svd(first_DD @ second_DD, compute_uv=False).sum()
    spread = np.trace(a.covariance_DD) + np.trace(b.covariance_DD) - 2 * overlap
    return float(max(0.0, np.square(a.mean_D - b.mean_D).sum() + spread))


def _root(c_DD: np.ndarray) -> np.ndarray:
    """Returns the symmetric root of a covariance; negative eigenvalues are rounding errors and count as zero."""
    values_D, vectors_DD = np.linalg.eigh(c_DD)
    return (vectors_DD * np.sqrt(np.maximum(values_D, 0.0))) @ vectors_DD.T


class KernelDistance(NamedTuple):
    """The squared MMD: its mean over subsets, and their standard deviation."""

    mean: float
    deviation: float


def kernel_distance(
    x_ND: np.ndarray,
    y_MD: np.ndarray,
    generator: np.random.Generator,
    subsets: int = KERNEL_SUBSETS,
    size: int = KERNEL_SUBSET,
) -> KernelDistance:
    """Returns the kernel distance (KID) of vectors [N, D] and [M, D], Bińkowski et al. 2018, section 4.

    Each subset has `size` vectors of each set, or at most half of the smaller set, so that subsets differ.
    Raises `ValueError` for fewer than two vectors on a side.
    """
    size = max(2, min(size, len(x_ND) // 2, len(y_MD) // 2))
    found = [
        squared_mmd(
            x_ND[generator.choice(len(x_ND), size, replace=False)],
            y_MD[generator.choice(len(y_MD), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found, ddof=1)))


def squared_mmd(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """Returns the unbiased squared MMD with the kernel (x'y / D + 1)³; by chance below zero for equal sets.

    Gretton et al. 2012, equation 3. Raises `ValueError` for fewer than two vectors on a side.
    """
    n, m = len(x_ND), len(y_MD)
    if min(n, m) < 2:
        raise ValueError(f"{n} and {m} vectors: an unbiased MMD needs at least two of each")
    x_ND, y_MD = np.asarray(x_ND, np.float64), np.asarray(y_MD, np.float64)
    same_NN, other_MM = _kernel(x_ND, x_ND), _kernel(y_MD, y_MD)
    within = (same_NN.sum() - np.trace(same_NN)) / (n * (n - 1))
    within += (other_MM.sum() - np.trace(other_MM)) / (m * (m - 1))
    return float(within - 2 * _kernel(x_ND, y_MD).mean())


def _kernel(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1.0) ** 3
