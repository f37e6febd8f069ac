"""The autoencoder of flat parameter vectors (p-diff, arXiv 2402.13144, section 3.2 and the 2024-12 edition)."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class ParameterAutoencoder(nn.Module):
    """1-D convolutions of stride 2 down to a latent vector, and back. Group norm, ELU.

    Shapes: vectors [N, length], latents [N, latent].
    """

    def __init__(self, length: int, channels: Sequence[int], kernel: int, latent: int) -> None:
        super().__init__()
        stride = 2 ** len(channels)
        self.length = length
        self.padded = -(-length // stride) * stride
        self.inner = (channels[-1], self.padded // stride)
        flat = self.inner[0] * self.inner[1]
        widths = [1, *channels]
        down: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            down += [nn.Conv1d(before, after, kernel, 2, kernel // 2), nn.GroupNorm(1, after), nn.ELU()]
        up: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(widths[:0:-1], widths[-2::-1], strict=True), start=1):
            up.append(nn.ConvTranspose1d(before, after, kernel, 2, kernel // 2, output_padding=1))
            up += [] if number == len(channels) else [nn.GroupNorm(1, after), nn.ELU()]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
        self.expand = nn.Linear(latent, flat)
        self.up = nn.Sequential(*up)

    def encode(self, vectors_NP: torch.Tensor) -> torch.Tensor:
        """Returns latents [N, latent]."""
        return self.down(nn.functional.pad(vectors_NP, (0, self.padded - self.length))[:, None])

    def decode(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """Returns vectors [N, length]."""
        return self.up(self.expand(latents_NL).unflatten(1, self.inner))[:, 0, : self.length]

    def forward(self, vectors_NP: torch.Tensor, latent_noise_NL: torch.Tensor) -> torch.Tensor:
        """Returns the reconstruction of `vectors_NP` with `latent_noise_NL` added to their latents."""
        return self.decode(self.encode(vectors_NP) + latent_noise_NL)
