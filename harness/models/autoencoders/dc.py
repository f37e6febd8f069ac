"""`AutoencoderDC`: the deep compression autoencoder of Sana and others (Chen et al. 2025, arXiv 2410.10733)."""

from typing import TYPE_CHECKING, Any

from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class DCAutoencoder(Autoencoder):
    """`AutoencoderDC`: deterministic, with latents that only a factor scales."""

    network = "diffusers:AutoencoderDC"
    widths = "encoder_block_out_channels"
    defaults = {
        "in_channels": 3,
        "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
        "latent_channels": 32,
        "scaling_factor": 1.0,
    }

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the scaled latents."""
        return autoencoder.encode(x_BCHW).latent.float() * autoencoder.config.scaling_factor

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of scaled latents."""
        return autoencoder.decode(z_BCHW / autoencoder.config.scaling_factor).sample


AUTOENCODER = DCAutoencoder()
