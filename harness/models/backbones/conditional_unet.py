"""The family of `UNet2DConditionModel`: Stable Diffusion 1 and 2, read with the empty prompt by default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.blocks import Block
from harness.models.backbones.family import check_numbers
from harness.models.backbones.prompted import PromptedFamily
from harness.models.backbones.unet import check_unet, middle_of, parts_of_unet, unet_names

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 77  # of CLIP's text encoder, padding included
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
OTHER_CONDITIONS = (  # other than the prompt
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "class_embed_type",
    "num_class_embeds",
    "dual_cross_attention",
    "only_cross_attention",
)


class ConditionalUNetFamily(PromptedFamily):
    """`UNet2DConditionModel`, on the latents of its VAE; its condition is the prompt's embedding [M, D]."""

    network = "diffusers:UNet2DConditionModel"
    folder = "unet"
    needed = ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim")
    defaults = {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "out_channels": 4,
    }
    autoencoders = ("vae",)
    latent = True
    pipeline = "diffusers:StableDiffusionPipeline"
    text_parts = ("text_encoder", "tokenizer")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses unknown block types, and conditions other than the prompt."""
        check_unet(config, path, DOWN, UP, "UNetMidBlock2DCrossAttn")
        check_numbers({"cross_attention_dim": config["cross_attention_dim"]}, path)
        for name in OTHER_CONDITIONS:
            if config.get(name):
                raise UserError(
                    f"{path}: {name} = {config[name]!r}: requires a condition other than the prompt, which is not "
                    "supported; Stable Diffusion 1 and 2 are"
                )

    def block_names(self, config: Mapping[str, Any]) -> list[str]:
        """Numbers blocks as in a `UNet2DModel`."""
        return unet_names(config)

    def points(self, block: str, modules: Sequence[str]) -> dict[str, str]:
        """Returns the parts of a U-Net's block."""
        return parts_of_unet(block, modules)

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block between input and output blocks."""
        return middle_of(blocks)

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding."""
        return {"prompt": [PROMPT_TOKENS, config["cross_attention_dim"]]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of CLIP's text encoder."""
        return {"text_encoder": config["cross_attention_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the text encoder's last hidden states, padded as by Stable Diffusion's pipeline."""
        embedding_1MD, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        return {"prompt": embedding_1MD[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the prompt."""
        return network(z_BCHW, time_B, condition["prompt"]).sample


FAMILY = ConditionalUNetFamily()
