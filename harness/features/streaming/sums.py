"""Sums over a stream of features: all that ridge probes at every pool need, in memory independent of image count."""

import numpy as np
import torch

from harness.features.heads.least_squares import Sums


class RunningSums:
    """The sums of one tap's features [N, C, P, P] and their targets, in float64."""

    def __init__(self, channels: int, pool: int, classes: int, device: torch.device) -> None:
        width = channels * pool**2
        self.channels, self.pool, self._classes = channels, pool, classes
        self._n = 0
        self._device = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        self._x_D, self._y_C, self._xx_DD, self._xy_DC = (
            torch.zeros(*shape, dtype=torch.float64, device=self._device)
            for shape in ((width,), (classes,), (width, width), (width, classes))
        )

    def add(self, x_BCPP: torch.Tensor, labels_B: np.ndarray) -> None:
        """Adds a batch."""
        x_BD = x_BCPP.flatten(1).to(self._device, torch.float64)
        y_BC = -torch.ones(len(x_BD), self._classes, dtype=torch.float64, device=self._device)
        y_BC.scatter_(1, torch.from_numpy(labels_B).to(self._device)[:, None], 1.0)
        self._n += len(x_BD)
        self._x_D += x_BD.sum(0)
        self._y_C += y_BC.sum(0)
        self._xx_DD.addmm_(x_BD.T, x_BD)
        self._xy_DC.addmm_(x_BD.T, y_BC)

    def at(self, pool: int) -> Sums:
        """Returns the sums of the features pooled further to `pool`, which must divide the pool of the sums.

        Pooling is linear, X P, so X'X becomes P'X'X P.
        """
        c, d, f = self.channels, pool, self.pool // pool
        if d * f != self.pool:
            raise ValueError(f"pool {pool} does not follow from pool {self.pool}")
        x_D = self._x_D.view(c, d, f, d, f).mean((2, 4)).flatten()
        xy_DC = self._xy_DC.view(c, d, f, d, f, -1).mean((2, 4)).flatten(0, 2)
        xx_DD = self._xx_DD.view(c, d, f, d, f, c, d, f, d, f).mean((2, 4, 7, 9)).view(len(x_D), len(x_D))
        return Sums(self._n, *(one.cpu().numpy() for one in (x_D, self._y_C, xx_DD, xy_DC)))
