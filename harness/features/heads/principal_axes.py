"""The principal axes of features, and the features along them: held in memory, or computed again from batches."""

from collections.abc import Iterator

import torch

from harness.features.heads.least_squares import HELD_BYTES, Centred
from harness.features.lazy import Features, places

SMALLEST = 1e-9  # singular values below this share of the largest are rounding errors
SMALLEST_OF_PRODUCTS = 1e-7  # the same where axes follow from XX', in whose roots rounding errors are larger


class PrincipalAxes:
    """The R principal axes of features X [N, D], centred, and Z [N, R], the features along them, in float64.

    From X'X if there are more samples than features, and then Z is held if it takes up to `HELD_BYTES`. Otherwise
    from XX': Z is held, and the axes, which are as large as the features, are not.
    """

    mean_D: torch.Tensor
    squares_R: torch.Tensor  # the sums of squares of Z's columns

    def __init__(self, x: Features, device: str) -> None:
        """Reads the features in batches. Raises `FloatingPointError` if they are not finite."""
        centred = Centred(x, device)
        self.n, self.mean_D = centred.n, centred.mean_D
        self._centred = centred
        self._axes_DR: torch.Tensor | None = None
        self._z_NR: torch.Tensor | None = None
        if centred.n > centred.dimensions:
            self.squares_R, self._axes_DR = _kept(centred.gram_DD(), SMALLEST)
            if 8 * self.n * len(self.squares_R) <= HELD_BYTES:
                self._z_NR = self.squares_R.new_empty(self.n, len(self.squares_R))
                for place, x_BD in centred.batches():
                    torch.mm(x_BD, self._axes_DR, out=self._z_NR[place])
        else:
            self.squares_R, left_NR = _kept(centred.gram_NN(), SMALLEST_OF_PRODUCTS)
            self._z_NR = left_NR * self.squares_R.sqrt()

    def along(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields Z in batches, as (place, features along the axes [B, R])."""
        for place, x_BM in self.batches():
            yield place, x_BM if self._axes_DR is None or self._z_NR is not None else x_BM @ self._axes_DR

    def batches(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields, as (place, [B, M]), Z if it is held, else X: what `into` and `back` go with."""
        if self._z_NR is None:
            yield from self._centred.batches()
        else:
            for place in places(self._z_NR):
                yield place, self._z_NR[place]

    def into(self, w_RC: torch.Tensor) -> torch.Tensor:
        """Returns the weights [M, C] by which scores Z @ w_RC follow from `batches`."""
        if self._axes_DR is None or self._z_NR is not None:
            return w_RC
        return (self._axes_DR @ w_RC.to(self._axes_DR)).to(w_RC)

    def back(self, products_MC: torch.Tensor) -> torch.Tensor:
        """Returns Z'Y [R, C], from the products Y' with `batches`."""
        if self._axes_DR is None or self._z_NR is not None:
            return products_MC
        return (self._axes_DR.T @ products_MC.to(self._axes_DR)).to(products_MC)

    def weights(self, w_RC: torch.Tensor) -> torch.Tensor:
        """Returns the weights [D, C] by which scores Z @ w_RC follow from X."""
        if self._axes_DR is not None:
            return self._axes_DR @ w_RC
        assert self._z_NR is not None
        return self._centred.transposed(self._z_NR @ (w_RC / self.squares_R[:, None]))


def _kept(gram_NN: torch.Tensor, smallest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns eigenvalues [R] and eigenvectors [N, R], without those whose root is a rounding error."""
    squares_N, axes_NN = torch.linalg.eigh(gram_NN)
    kept_N = squares_N > smallest**2 * squares_N[-1].clamp(min=1e-60)
    return squares_N[kept_N], axes_NN[:, kept_N]
