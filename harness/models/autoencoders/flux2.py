"""`AutoencoderKLFlux2`: FLUX.2's VAE (Black Forest Labs 2025)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch

PATCH = 2  # height and width of the patches of latents that become one


class Flux2Autoencoder(Autoencoder):
    """`AutoencoderKLFlux2`: patches of latents become channels, normalised by the statistics of a batch norm."""

    network = "diffusers:AutoencoderKLFlux2"
    defaults = {
        "in_channels": 3,
        "block_out_channels": [128, 256, 512, 512],
        "latent_channels": 32,
        "patch_size": [PATCH, PATCH],
    }

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses a configuration without channel counts, or with other patches than FLUX.2's pipelines make."""
        super().check(config, path)
        if [*config["patch_size"]] != [PATCH, PATCH]:
            raise UserError(f"{path}: patch_size = {config['patch_size']!r}: expected {[PATCH, PATCH]}")

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of patches of latents."""
        return PATCH**2 * super().channels(config)

    def factor(self, config: Mapping[str, Any]) -> int:
        """Returns the downsampling of latents, times the size of patches."""
        return PATCH * super().factor(config)

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns patches of the mode of the latents, normalised."""
        from diffusers import Flux2Pipeline

        mean, deviation = _statistics(autoencoder)
        z_BCHW = autoencoder.encode(x_BCHW).latent_dist.mode().float()
        return (Flux2Pipeline._patchify_latents(z_BCHW) - mean) / deviation

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of normalised patches."""
        from diffusers import Flux2Pipeline

        mean, deviation = _statistics(autoencoder)
        return autoencoder.decode(Flux2Pipeline._unpatchify_latents(z_BCHW * deviation + mean)).sample


AUTOENCODER = Flux2Autoencoder()


def _statistics(autoencoder: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """Returns the mean and standard deviation of patches, [1, C, 1, 1]."""
    mean_C, variance_C = autoencoder.bn.running_mean, autoencoder.bn.running_var
    deviation_C = (variance_C + autoencoder.config.batch_norm_eps).sqrt()
    return mean_C.reshape(1, -1, 1, 1), deviation_C.reshape(1, -1, 1, 1)
