"""Autoencoders of flat parameter vectors, one per edition of p-diff (arXiv 2402.13144, section 3.2).

N networks, P numbers in a vector, L in its latent, C channels.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Returns a normalisation of [N, channels, numbers]: "group" (per sample), "batch" or "none"."""
    if kind == "group":
        return nn.GroupNorm(1, channels)
    return nn.BatchNorm1d(channels) if kind == "batch" else nn.Identity()


class VectorAutoencoder(nn.Module, ABC):
    """Base of all editions: vectors [N, length], latents [N, latent].

    Every number of a vector moves the latent, and is moved by it. In evaluation mode each vector is encoded, and each
    latent decoded, by itself. Weights are drawn from torch's global generator, which the caller has seeded.
    """

    length: int
    latent: int

    @abstractmethod
    def encode(self, vectors_NP: torch.Tensor) -> torch.Tensor:
        """Returns latents [N, latent]."""

    @abstractmethod
    def decode(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """Returns vectors [N, length]."""

    def forward(self, vectors_NP: torch.Tensor, noise_NL: torch.Tensor, kept: float = 1.0) -> torch.Tensor:
        """Returns the reconstruction of `vectors_NP` from `kept` of their latents plus `noise_NL`."""
        return self.decode(kept * self.encode(vectors_NP) + noise_NL)


class ParameterAutoencoder(VectorAutoencoder):
    """1-D convolutions of stride 2, a linear layer to the latent, and back; ELU (edition 2024-12)."""

    def __init__(
        self, length: int, channels: Sequence[int], kernel: int, latent: int, norm: str = "group"
    ) -> None:
        super().__init__()
        stride = 2 ** len(channels)
        self.length, self.latent = length, latent
        self.padded = -(-length // stride) * stride
        self.inner = (channels[-1], self.padded // stride)
        flat = self.inner[0] * self.inner[1]
        widths = [1, *channels]
        down: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            down += [nn.Conv1d(before, after, kernel, 2, kernel // 2), norm_layer(norm, after), nn.ELU()]
        up: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(widths[::-1]), start=1):
            up.append(nn.ConvTranspose1d(before, after, kernel, 2, kernel // 2, output_padding=1))
            up += [] if number == len(channels) else [norm_layer(norm, after), nn.ELU()]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
        self.expand = nn.Linear(latent, flat)
        self.up = nn.Sequential(*up)

    def encode(self, vectors_NP: torch.Tensor) -> torch.Tensor:
        """Returns latents [N, latent]; the vector is padded with zeros to a multiple of all strides."""
        return self.down(nn.functional.pad(vectors_NP, (0, self.padded - self.length))[:, None])

    def decode(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """Returns vectors [N, length]."""
        return self.up(self.expand(latents_NL).unflatten(1, self.inner))[:, 0, : self.length]


class TiledAutoencoder(VectorAutoencoder):
    """1-D convolutions whose stride is their kernel, and transposed ones back; Tanh (edition 2024-02).

    The size of the latent follows from the strides: 4 x 3 for 2048 numbers, 4 stages of stride 5 and 4 channels. If a
    length is not a multiple of the stride, that stage's kernel is wider by the remainder, in encoder and decoder, so
    that every number is read and written: 2048 -> 409 -> 81 -> 16 -> 3.
    """

    def __init__(
        self, length: int, channels: Sequence[int], decoder_channels: Sequence[int], stride: int, norm: str
    ) -> None:
        super().__init__()
        remainders = [length // stride**level % stride for level in range(len(channels))]
        self.length = length
        self.inner = (channels[-1], length // stride ** len(channels))
        self.latent = self.inner[0] * self.inner[1]
        down: list[nn.Module] = []
        for before, after, more in zip([1, *channels], channels, remainders, strict=False):
            down += [nn.Conv1d(before, after, stride + more, stride), norm_layer(norm, after), nn.Tanh()]
        up: list[nn.Module] = []
        widths = [channels[-1], *decoder_channels]
        for before, after, more in zip(widths, decoder_channels, remainders[::-1], strict=False):
            up += [
                nn.ConvTranspose1d(before, after, stride + more, stride),
                norm_layer(norm, after),
                nn.Tanh(),
            ]
        self.down = nn.Sequential(*down, nn.Flatten())
        self.up = nn.Sequential(*up, nn.Conv1d(decoder_channels[-1], 1, stride, padding=stride // 2))

    def encode(self, vectors_NP: torch.Tensor) -> torch.Tensor:
        """Returns latents [N, latent], each between -1 and 1."""
        return self.down(vectors_NP[:, None])

    def decode(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """Returns vectors [N, length]."""
        return self.up(latents_NL.unflatten(1, self.inner))[:, 0]
