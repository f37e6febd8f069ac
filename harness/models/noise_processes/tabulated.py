"""Noise processes given by a table: the factors of signal and noise at every step. No torch at import."""

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.models.noise_processes.process import NoiseProcess

if TYPE_CHECKING:
    import torch


class Tabulated(NoiseProcess):
    """x_t = signal(t) x_0 + noise(t) epsilon, from float64 tables; tensors are computed in their own dtype."""

    @property
    @abstractmethod
    def signal_T(self) -> np.ndarray:
        """The factor of the clean sample at every step, float64 [T]."""

    @property
    @abstractmethod
    def noise_T(self) -> np.ndarray:
        """The factor of the noise at every step, float64 [T], positive."""

    @property
    def timesteps(self) -> int:
        """The length of the tables."""
        return len(self.noise_T)

    @cached_property
    def log_snr_T(self) -> np.ndarray:
        """2 ln(signal / noise), float64 [T]."""
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self.signal_T) - np.log(self.noise_T))

    def noised(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns signal(t) x_0 + noise(t) epsilon."""
        return at(self.signal_T, steps_B, x_B) * x_B + at(self.noise_T, steps_B, x_B) * epsilon_B

    def advance(
        self,
        noised_B: "torch.Tensor",
        clean_B: "torch.Tensor",
        step: int,
        following: int | None,
        fresh_B: "torch.Tensor | None",
    ) -> "torch.Tensor":
        """Takes a step of the probability flow by Euler's method, or draws from q(x_s | x_t, x_0) with `fresh_B`.

        The variance of that posterior is (noise_t² - (signal_t / signal_s)² noise_s²) noise_s² / noise_t² (Kingma et
        al. 2021, "Variational Diffusion Models", appendix A.2).
        """
        signal, noise = float(self.signal_T[step]), float(self.noise_T[step])
        if following is None:
            signal_next, noise_next = 1.0, 0.0
        else:
            signal_next, noise_next = float(self.signal_T[following]), float(self.noise_T[following])
        epsilon_B = (noised_B - signal * clean_B) / noise
        if fresh_B is None:
            return signal_next * clean_B + noise_next * epsilon_B
        left = noise**2 - (signal / signal_next * noise_next) ** 2
        variance = max(left, 0.0) * noise_next**2 / noise**2
        direction = max(noise_next**2 - variance, 0.0) ** 0.5
        return signal_next * clean_B + direction * epsilon_B + variance**0.5 * fresh_B


def at(values_T: np.ndarray, steps_B: "torch.Tensor", like_B: "torch.Tensor | None" = None) -> "torch.Tensor":
    """Returns values of a table at steps, on their device: float32 [B], or as factors of a batch."""
    import torch

    dtype = torch.float32 if like_B is None else like_B.dtype
    values_B = torch.from_numpy(values_T).to(dtype).to(steps_B.device)[steps_B]
    return values_B if like_B is None else values_B.reshape(-1, *[1] * (like_B.ndim - 1))
