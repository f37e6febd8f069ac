"""`AutoencoderRAE`: a vision encoder's tokens as latents, with a decoder (Zheng et al. 2025, arXiv 2510.11690)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch

COUNTS = ("encoder_hidden_size", "encoder_patch_size", "encoder_input_size", "patch_size", "num_channels")


class RepresentationAutoencoder(Autoencoder):
    """`AutoencoderRAE` of DINOv2, SigLIP2 or MAE, its latents standardised by statistics in its weights.

    Images are resized to the encoder's input, of which its tokens are a map of fixed size.
    """

    network = "diffusers:AutoencoderRAE"
    defaults = {
        "encoder_hidden_size": 768,
        "encoder_patch_size": 14,
        "encoder_input_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "reshape_to_2d": True,
    }

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and latents that are no map."""
        for name in COUNTS:
            value = config[name]
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{path}: {name} = {value!r}: expected a positive integer")
        if config["encoder_input_size"] % config["encoder_patch_size"]:
            raise UserError(
                f"{path}: encoder_patch_size = {config['encoder_patch_size']} does not divide encoder_input_size = "
                f"{config['encoder_input_size']}"
            )
        if config["reshape_to_2d"] is not True:
            raise UserError(
                f"{path}: reshape_to_2d = {config['reshape_to_2d']!r}: only latents with rows and columns are read"
            )

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the width of the encoder."""
        return config["encoder_hidden_size"]

    def factor(self, config: Mapping[str, Any]) -> int:
        """Returns the size of the decoder's patches."""
        return config["patch_size"]

    def map_size(self, config: Mapping[str, Any]) -> int:
        """Returns the number of tokens in a row."""
        return config["encoder_input_size"] // config["encoder_patch_size"]

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """Returns num_channels."""
        return config["num_channels"]

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the standardised tokens."""
        return autoencoder.encode((x_BCHW + 1) / 2).latent.float()

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of standardised tokens."""
        return 2 * autoencoder.decode(z_BCHW).sample - 1


AUTOENCODER = RepresentationAutoencoder()
