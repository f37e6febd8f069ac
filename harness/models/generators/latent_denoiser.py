"""The noise predictor of study 2: 1-D convolutions over a latent vector (p-diff, both editions)."""

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import Timesteps
from torch import nn

from harness.models.generators.parameter_autoencoder import norm_layer


class LatentDenoiser(nn.Module):
    """Widens and narrows along `channels` without down-sampling; the timestep is added before every layer.

    Mirrored layers of equal width are joined by a sum.
    """

    def __init__(self, latent: int, channels: Sequence[int], kernel: int, norm: str = "group") -> None:
        super().__init__()
        widths = [*channels, *reversed(channels[:-1])]
        self.depth = len(channels)
        self.time = nn.Sequential(
            Timesteps(64, True, 0), nn.Linear(64, latent), nn.ELU(), nn.Linear(latent, latent)
        )
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, after, kernel, padding=kernel // 2), norm_layer(norm, after), nn.ELU()
            )
            for before, after in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.out = nn.Conv1d(widths[-1], 1, kernel, padding=kernel // 2)

    def forward(self, latents_NL: torch.Tensor, timesteps_N: torch.Tensor) -> torch.Tensor:
        """Returns the predicted noise [N, latent]."""
        time_N1L = self.time(timesteps_N)[:, None]
        x_NCL = latents_NL[:, None]
        passed: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            x_NCL = layer(x_NCL + time_N1L)
            if number < self.depth - 1:
                passed.append(x_NCL)
            elif number >= self.depth:
                x_NCL = x_NCL + passed.pop()
        return self.out(x_NCL + time_N1L)[:, 0]
