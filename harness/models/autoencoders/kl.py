"""`AutoencoderKL`: the VAE of Stable Diffusion, SDXL, SD3, Flux.1 and many others (Rombach et al. 2022)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class KLAutoencoder(Autoencoder):
    """`AutoencoderKL`, its latents standardised as its configuration says."""

    network = "diffusers:AutoencoderKL"
    defaults = {
        "in_channels": 3,
        "block_out_channels": [64],
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses a configuration without channel counts, or with only half of the latents' moments."""
        super().check(config, path)
        if bool(config.get("latents_mean")) != bool(config.get("latents_std")):
            raise UserError(f"{path}: latents_mean and latents_std: expected both or neither")

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the mode of the latents, shifted and scaled."""
        mean, scale = _standard(autoencoder.config, x_BCHW)
        return (autoencoder.encode(x_BCHW).latent_dist.mode().float() - mean) * scale

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of standardised latents."""
        mean, scale = _standard(autoencoder.config, z_BCHW)
        return autoencoder.decode(z_BCHW / scale + mean).sample


AUTOENCODER = KLAutoencoder()


def _standard(config: Any, like_BCHW: "torch.Tensor") -> "tuple[Any, Any]":
    """Returns what is subtracted from latents, and what they are then multiplied by."""
    import torch

    scale = config.scaling_factor
    if config.get("latents_mean"):
        mean_1C11, deviation_1C11 = (
            torch.tensor(values, device=like_BCHW.device).reshape(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean_1C11, scale / deviation_1C11
    return config.get("shift_factor") or 0.0, scale
