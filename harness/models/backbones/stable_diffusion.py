"""The U-Nets of Stable Diffusion 1 and 2, their distillations and latent consistency models (Rombach et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.models.backbones.prompted_unet import PromptedUNet, Use

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 77  # of CLIP's text encoder, padding included


class StableDiffusion(PromptedUNet):
    """`UNet2DConditionModel` on the latents of its VAE; its condition is the prompt's embedding [M, D]."""

    use = Use()
    pipeline = "diffusers:StableDiffusionPipeline"
    text_parts = ("text_encoder", "tokenizer")

    def embedded(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding."""
        return {"prompt": [PROMPT_TOKENS, config["cross_attention_dim"]]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of CLIP's text encoder."""
        return {"text_encoder": config["cross_attention_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the text encoder's last hidden states, padded as by Stable Diffusion's pipeline."""
        embedding_1MD, _ = pipeline.encode_prompt(prompt, "cpu", 1, False)
        return {"prompt": embedding_1MD[0]}


class LatentConsistency(StableDiffusion):
    """A latent consistency model, told the guidance scale that it was distilled from (Luo et al. 2023)."""

    use = Use(guided=True)
    conditions = (*StableDiffusion.conditions, "guidance")
