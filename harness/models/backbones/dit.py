"""The family of `DiTTransformer2DModel` (Peebles and Xie 2022), read with the null label."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.blocks import Step
from harness.models.backbones.family import check_numbers, positive
from harness.models.backbones.latent import LatentFamily

if TYPE_CHECKING:
    import torch

TIMESTEP_CHANNELS = 256  # of the sinusoidal embedding


class DiTFamily(LatentFamily):
    """`DiTTransformer2DModel`: a transformer over patches of latents; the null label is the last of the table."""

    network = "diffusers:DiTTransformer2DModel"
    folder = "transformer"
    needed = ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim")
    defaults = {"patch_size": 2, "num_embeds_ada_norm": 1000}
    condition = "the null label"

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

    def steps(self, config: Mapping[str, Any]) -> tuple[list[Step], float]:
        """Numbers every transformer block."""
        width = config["num_attention_heads"] * config["attention_head_dim"]
        patch, size = config["patch_size"], config["sample_size"] // config["patch_size"]
        tokens, channels = size**2, config["in_channels"]
        condition = width * (TIMESTEP_CHANNELS + width)
        attention = 4 * tokens * width**2 + 2 * tokens**2 * width
        one = attention + 8 * tokens * width**2 + 6 * width**2 + condition
        embed = tokens * patch**2 * channels * width
        steps = [
            Step(f"transformer_blocks.{number}", width, size, one + (embed if number == 0 else 0))
            for number in range(config["num_layers"])
        ]
        out = config.get("out_channels") or channels
        return steps, condition + 2 * width**2 + tokens * width * patch**2 * out

    def run(
        self, network: Any, z_BCHW: "torch.Tensor", time_B: "torch.Tensor", condition: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Runs the network with the null label."""
        labels_B = time_B.new_full((len(z_BCHW),), network.config.num_embeds_ada_norm).long()
        return network(z_BCHW, time_B, labels_B).sample

    def as_map(self, network: Any, activation: "torch.Tensor") -> "torch.Tensor":
        """Returns tokens [B, H' * W', C'] as a map [B, C', H', W']."""
        size = network.config.sample_size // network.config.patch_size
        return activation.transpose(1, 2).unflatten(2, (size, size))


FAMILY = DiTFamily()
