"""`VQModel`: the VQ autoencoder of latent diffusion models (Esser et al. 2021; Rombach et al. 2022)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.models.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    import torch


class VQAutoencoder(Autoencoder):
    """`VQModel`: noise is added before quantisation, which is part of the decoder.

    A MoVQ, of Kandinsky 2, is told by its spatial normalisation: it neither scales latents nor quantises them, as in
    its pipelines.

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

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the width of the codebook, by default latent_channels."""
        return config.get("vq_embed_dim") or config["latent_channels"]

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the scaled latents before quantisation."""
        return autoencoder.encode(x_BCHW).latents.float() * _scale(autoencoder.config)

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Quantises latents, unless they are a MoVQ's, and returns their images."""
        config = autoencoder.config
        return autoencoder.decode(z_BCHW / _scale(config), force_not_quantize=_is_movq(config)).sample


AUTOENCODER = VQAutoencoder()


def _is_movq(config: Any) -> bool:
    return config.get("norm_type", "group") == "spatial"


def _scale(config: Any) -> float:
    return 1.0 if _is_movq(config) else config.scaling_factor
