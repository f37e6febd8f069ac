"""`AutoencoderKLQwenImage`: Qwen-Image's VAE, made for videos, on single frames (Qwen team 2025)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class QwenImageAutoencoder(Autoencoder):
    """`AutoencoderKLQwenImage`; latents are standardised by channel, as the configuration says."""

    network = "diffusers:AutoencoderKLQwenImage"
    defaults = {"z_dim": 16, "input_channels": 3, "temperal_downsample": [False, True, True]}

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses images with transparency, and statistics that are not one a channel."""
        if config["input_channels"] != 3:
            raise UserError(
                f"{path}: input_channels = {config['input_channels']}: only images of 3 channels are supported"
            )
        for name in ("latents_mean", "latents_std"):
            values = config.get(name)
            if values is not None and len(values) != config["z_dim"]:
                raise UserError(
                    f"{path}: {name} has {len(values)} values, expected z_dim = {config['z_dim']}"
                )

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns z_dim."""
        return config["z_dim"]

    def factor(self, config: Mapping[str, Any]) -> int:
        """Returns two to the power of the number of downsamplers."""
        return 2 ** len(config["temperal_downsample"])

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """Returns input_channels."""
        return config["input_channels"]

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the mode of the latents of a single frame, standardised."""
        mean, deviation = _statistics(autoencoder.config, x_BCHW)
        z_BCHW = autoencoder.encode(x_BCHW.unsqueeze(2)).latent_dist.mode()[:, :, 0].float()
        return (z_BCHW - mean) / deviation

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of standardised latents."""
        mean, deviation = _statistics(autoencoder.config, z_BCHW)
        return autoencoder.decode((z_BCHW * deviation + mean).unsqueeze(2)).sample[:, :, 0]


AUTOENCODER = QwenImageAutoencoder()


def _statistics(config: Any, like_BCHW: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns the mean and standard deviation of latents, [1, C, 1, 1]."""
    import torch

    mean_1C11, deviation_1C11 = (
        torch.tensor(values, device=like_BCHW.device).reshape(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean_1C11, deviation_1C11
