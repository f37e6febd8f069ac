"""Base of the families that denoise the latents of an `AutoencoderKL`. No torch at import."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.family import Family, open_weights
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Parts, Pipeline, Weights
from harness.models.backbones.weight_files import copy_weights

if TYPE_CHECKING:
    import torch

AUTOENCODER = "diffusers:AutoencoderKL"
VAE = "vae"  # folder in a pipeline


class LatentFamily(Family):
    """Base of families that add noise to the scaled latents of a VAE."""

    hub_files: ClassVar[Sequence[str]] = (f"{VAE}/*.json", f"{VAE}/{WEIGHTS}")
    latent = True

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any]) -> Parts:
        """Reads the configuration of the VAE; raises `UserError` if it is missing or its latents do not match."""
        place = pipeline.part(VAE)
        if place is None:
            raise UserError(
                f"{pipeline.root}: a {self.class_name} denoises latents, but there is no folder vae; give the folder "
                "of the whole pipeline"
            )
        vae = self._read_vae(place / CONFIG, config["in_channels"])
        size = config["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
        weights = place / WEIGHTS
        return Parts(size, vae["in_channels"], [vae], [weights], [Weights(weights, AUTOENCODER, vae)])

    def _read_vae(self, path: Path, channels: int) -> dict[str, Any]:
        vae = read_json(path)
        if vae.get("_class_name", "AutoencoderKL") != "AutoencoderKL" or vae.get("shift_factor"):
            raise UserError(
                f"{path}: holds a {vae.get('_class_name')}: expected an AutoencoderKL without shift_factor"
            )
        widths, latents = vae.get("block_out_channels", [64]), vae.get("latent_channels", 4)
        if not isinstance(widths, list) or not widths or latents != channels:
            raise UserError(
                f"{path}: latent_channels = {latents!r}, but the {self.class_name} has in_channels = {channels}; "
                "models with inputs other than latents (inpainting) are not supported"
            )
        return {"in_channels": 3, "block_out_channels": [64], "scaling_factor": 0.18215, **vae}

    def write_parts(self, pipeline: Pipeline, folder: Path) -> None:
        """Copies the VAE."""
        (folder / VAE).mkdir()
        shutil.copyfile(pipeline.root / VAE / CONFIG, folder / VAE / CONFIG)
        copy_weights(pipeline.root / VAE / WEIGHTS, folder / VAE)

    def open_autoencoder(self, folder: Path) -> Any:
        """Opens the VAE."""
        return open_weights(AUTOENCODER, folder / VAE)

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the mode of the images' scaled latents.

        Float32 even under autocast: in bfloat16 the lowest noise levels would round to no noise at all.
        """
        return autoencoder.encode(x_BCHW).latent_dist.mode().float() * autoencoder.config.scaling_factor

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the images of scaled latents."""
        return autoencoder.decode(z_BCHW / autoencoder.config.scaling_factor).sample
