"""`VQModel`: the VQ autoencoder of latent diffusion models (Esser et al. 2021; Rombach et al. 2022)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class VQAutoencoder(Autoencoder):
    """`VQModel`: noise is added before quantisation, which is part of the decoder.

    A configuration without scaling_factor is older than that field, and its latents were not scaled, as those of
    ldm-celebahq-256 (Rombach et al. 2022, appendix D.1); diffusers' default is Stable Diffusion's.
    """

    network = "diffusers:VQModel"
    defaults = {
        "in_channels": 3,
        "block_out_channels": [64],
        "latent_channels": 3,
        "scaling_factor": 1.0,
    }

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses a configuration without channel counts."""
        widths = config["block_out_channels"]
        if not isinstance(widths, list) or not widths:
            raise UserError(f"{path}: block_out_channels = {widths!r}: expected a list of channel counts")

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns latent_channels."""
        return config["latent_channels"]

    def factor(self, config: Mapping[str, Any]) -> int:
        """Returns two to the power of the number of downsamplers."""
        return 2 ** (len(config["block_out_channels"]) - 1)

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the scaled latents before quantisation."""
        return autoencoder.encode(x_BCHW).latents.float() * autoencoder.config.scaling_factor

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Quantises latents and returns their images."""
        return autoencoder.decode(z_BCHW / autoencoder.config.scaling_factor).sample


AUTOENCODER = VQAutoencoder()
