"""Ridge regression in closed form: all strengths from one eigendecomposition, of features or their sums.

The intercept is free; targets are +1 for the sample's class, or classes, and -1 for the others. For features
X [N, D] and targets Y [N, C], both centred, the weights minimise |Y - X W|^2 / N + strength * |W|^2 (sums over
samples and classes): scikit-learn's `Ridge` with alpha = strength * N.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.data.label_arrays import is_multilabel
from harness.features.lazy import Features, batches, places

if TYPE_CHECKING:
    import torch

DECOMPOSITION = 5  # memory of an eigendecomposition, in units of the matrix: measured 4, rounded up
HELD_BYTES = 2**29  # largest size of features along their principal axes that are held; others are read again
SMALLEST = 1e-15  # eigenvalues below this share of the largest are rounding errors


class Sums(NamedTuple):
    """All that a ridge probe needs of its training samples, in float64. Sums of batches may be added."""

    n: int
    x_D: np.ndarray  # sum of the features
    y_C: np.ndarray  # sum of the targets
    xx_DD: np.ndarray  # X'X
    xy_DC: np.ndarray  # X'Y

    @property
    def mean_D(self) -> np.ndarray:
        """The mean of each feature."""
        return self.x_D / self.n

    @property
    def deviation_D(self) -> np.ndarray:
        """The standard deviation of each feature, over N."""
        return np.sqrt(np.maximum(np.diag(self.xx_DD) / self.n - np.square(self.mean_D), 0.0))

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns X'X [D, D] and X'Y [D, C] of centred features and targets."""
        gram_DD = self.xx_DD - np.outer(self.x_D, self.mean_D)
        return gram_DD, self.xy_DC - np.outer(self.mean_D, self.y_C)


class Solution(NamedTuple):
    """A ridge probe: scores are x @ weights_DC + intercept_C."""

    strength: float
    weights_DC: np.ndarray
    intercept_C: np.ndarray


def targets(labels_N: np.ndarray, classes: int) -> np.ndarray:
    """Returns +1 for each sample's class, or classes, and -1 for the others, float64 [N, classes]."""
    if is_multilabel(labels_N):
        return np.where(labels_N == 1, 1.0, -1.0)
    return np.where(labels_N[:, None] == np.arange(classes), 1.0, -1.0)


def solving_bytes(samples: int, dimensions: int) -> float:
    """Returns the bytes of X'X or XX', whichever is smaller, and of its eigendecomposition, in float64."""
    return 8 * DECOMPOSITION * float(min(samples, dimensions)) ** 2


def solve(
    gram_DD: np.ndarray, cross_DC: np.ndarray, n: int, strengths: Sequence[float], device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Yields weights [D, C] for each strength, from X'X and X'Y of `n` centred samples.

    Rescaling the features to x / s gives X'X / (s s') and X'Y / s. Raises `FloatingPointError` for sums that
    are not finite.
    """
    import torch

    refuse_infinite(gram_DD)
    gram, cross = (
        torch.as_tensor(one, dtype=torch.float64, device=_double(device)) for one in (gram_DD, cross_DC)
    )
    for weights in _solve(gram, cross, n, strengths):
        yield weights.cpu().numpy()


def _solve(
    gram_DD: "torch.Tensor", cross_DC: "torch.Tensor", n: int, strengths: Sequence[float]
) -> Iterator["torch.Tensor"]:
    import torch

    squares_R, axes_DR = torch.linalg.eigh(gram_DD)
    squares_R = torch.where(squares_R > SMALLEST * squares_R[-1], squares_R, 0.0)
    along_RC = axes_DR.T @ cross_DC
    for strength in strengths:
        yield axes_DR @ (along_RC / (squares_R + n * strength)[:, None])


def solutions(
    x: Features, labels_N: np.ndarray, classes: int, strengths: Sequence[float], device: str = "cpu"
) -> Iterator[Solution]:
    """Yields a probe for each strength, from X'X [D, D] or XX' [N, N], whichever is smaller.

    Features are read in batches: three times, or for XX' once for every two batches; and then once for each strength.
    """
    import torch

    centred = Centred(x, device)
    y = torch.as_tensor(targets(labels_N, classes), device=centred.device)
    mean_C = y.mean(0)
    y = y - mean_C
    if centred.n > centred.dimensions:
        found = _solve(centred.gram_DD(), centred.transposed(y), centred.n, strengths)
    else:  # (X'X + a)^-1 X' = X' (XX' + a)^-1
        found = (centred.transposed(dual) for dual in _solve(centred.gram_NN(), y, centred.n, strengths))
    for strength, weights_DC in zip(strengths, found, strict=True):
        intercept_C = mean_C - centred.mean_D @ weights_DC
        yield Solution(strength, weights_DC.cpu().numpy(), intercept_C.cpu().numpy())


class Centred:
    """Features less their mean, X [N, D] in float64, of which a batch at a time is in memory."""

    def __init__(self, x: Features, device: str) -> None:
        """Reads the features for their mean. Raises `FloatingPointError` if they are not finite."""
        import torch

        self.n, self.dimensions = len(x), math.prod(x.shape[1:])
        self.device = _double(device)
        self.mean_D = torch.zeros(self.dimensions, dtype=torch.float64, device=self.device)
        self._x = x
        for _, x_BD in batches(x):
            refuse_infinite(x_BD)
            self.mean_D += self._double(x_BD).sum(0)
        self.mean_D /= self.n

    def batches(self) -> "Iterator[tuple[slice, torch.Tensor]]":
        """Yields all samples in order, as (place, features [B, D])."""
        for place in places(self._x):
            yield place, self._at(place)

    def gram_DD(self) -> "torch.Tensor":
        """Returns X'X."""
        gram_DD = self.mean_D.new_zeros(self.dimensions, self.dimensions)
        for _, x_BD in self.batches():
            gram_DD.addmm_(x_BD.T, x_BD)
        return gram_DD

    def gram_NN(self) -> "torch.Tensor":
        """Returns XX'."""
        gram_NN = self.mean_D.new_empty(self.n, self.n)
        for place, x_AD in self.batches():
            gram_NN[place, place] = x_AD @ x_AD.T
            for before in places(self._x):
                if before.start < place.start:
                    gram_NN[place, before] = x_AD @ self._at(before).T
                    gram_NN[before, place] = gram_NN[place, before].T
        return gram_NN

    def transposed(self, y_NC: "torch.Tensor") -> "torch.Tensor":
        """Returns X'Y [D, C]."""
        product_DC = self.mean_D.new_zeros(self.dimensions, y_NC.shape[1])
        for place, x_BD in self.batches():
            product_DC.addmm_(x_BD.T, y_NC[place])
        return product_DC

    def _at(self, place: slice) -> "torch.Tensor":
        return self._double(self._x[place]).sub_(self.mean_D)

    def _double(self, x_B: np.ndarray) -> "torch.Tensor":
        import torch

        return torch.as_tensor(x_B).to(self.device, torch.float64, copy=True).flatten(1)


def _double(device: str) -> str:
    """Returns the device, or the CPU if the device lacks float64."""
    return "cpu" if device == "mps" else device


def refuse_infinite(x: np.ndarray) -> None:
    """Raises `FloatingPointError` if features, or sums of them, are not finite."""
    if not np.isfinite(x).all():
        raise FloatingPointError("features are not finite; the backbone overflows or is poorly trained")
