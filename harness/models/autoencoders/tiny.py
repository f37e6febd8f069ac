"""`AutoencoderTiny`: TAESD, a small autoencoder that replaces the VAE of a latent diffusion model.

https://github.com/madebyollin/taesd: distilled from that VAE, it reads and writes the same latents, already scaled.
"""

from typing import TYPE_CHECKING, Any

from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class TinyAutoencoder(Autoencoder):
    """`AutoencoderTiny`: deterministic; its own shift and scale are usually 0 and 1."""

    network = "diffusers:AutoencoderTiny"
    widths = "encoder_block_out_channels"
    defaults = {
        "in_channels": 3,
        "encoder_block_out_channels": [64, 64, 64, 64],
        "latent_channels": 4,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the latents, shifted and scaled."""
        config = autoencoder.config
        return (autoencoder.encode(x_BCHW).latents.float() - config.shift_factor) * config.scaling_factor

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of shifted and scaled latents."""
        config = autoencoder.config
        return autoencoder.decode(z_BCHW / config.scaling_factor + config.shift_factor).sample


AUTOENCODER = TinyAutoencoder()
