"""The linear autoencoder's network: beside its edition, which planning reads without torch."""

import torch
from torch import nn

from harness.models.generators.parameter_autoencoder import VectorAutoencoder


class LinearAutoencoder(VectorAutoencoder):
    """A linear layer to the latent and one back."""

    def __init__(self, length: int, latent: int) -> None:
        super().__init__()
        self.length, self.latent = length, latent
        self.down, self.up = nn.Linear(length, latent), nn.Linear(latent, length)

    def encode(self, vectors_NP: torch.Tensor) -> torch.Tensor:
        """Returns latents [N, latent]."""
        return self.down(vectors_NP)

    def decode(self, latents_NL: torch.Tensor) -> torch.Tensor:
        """Returns vectors [N, length]."""
        return self.up(latents_NL)
