"""The family of `DiTTransformer2DModel` (Peebles and Xie 2022), read with the null label."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers, positive
from harness.models.backbones.labelled import LabelledFamily

if TYPE_CHECKING:
    import torch


class DiTFamily(LabelledFamily):
    """`DiTTransformer2DModel`: a transformer over patches of latents; the null label is the last of the table."""

    network = "diffusers:DiTTransformer2DModel"
    folder = "transformer"
    needed = ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim")
    defaults = {"patch_size": 2, "num_embeds_ada_norm": 1000}
    autoencoders = ("vae",)
    latent = True

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses patch sizes that do not divide the map, and networks without labels."""
        check_numbers({name: config[name] for name in (*self.needed, "patch_size")}, path)
        if config["sample_size"] % config["patch_size"]:
            raise UserError(
                f"{path}: patch_size = {config['patch_size']} does not divide sample_size = {config['sample_size']}"
            )
        labels = config.get("num_embeds_ada_norm")
        if not positive(labels):
            raise UserError(
                f"{path}: num_embeds_ada_norm = {labels!r}: expected a positive integer for the null label"
            )

    def classes(self, config: Mapping[str, Any]) -> int:
        """Returns the number of classes; the null class follows them."""
        return config["num_embeds_ada_norm"]

    def null(self, config: Mapping[str, Any]) -> int:
        """Returns the last row of the table of labels."""
        return config["num_embeds_ada_norm"]

    def block_names(self, config: Mapping[str, Any]) -> list[str]:
        """Numbers every transformer block."""
        return [f"transformer_blocks.{number}" for number in range(config["num_layers"])]

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the label."""
        return network(z_BCHW, time_B, condition["label"]).sample


FAMILY = DiTFamily()
