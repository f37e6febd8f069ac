"""The U-Net of DeepFloyd IF's first stage, on pixels (DeepFloyd Lab 2023, after Imagen: Saharia et al. 2022)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.models.backbones.prompted_unet import PromptedUNet, Use

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 77  # of T5, padding included


class DeepFloyd(PromptedUNet):
    """`UNet2DConditionModel` on pixels with a learnt variance; its condition is T5's embedding [M, D]."""

    use = Use("text_proj", "text")
    needed = (*PromptedUNet.needed, "encoder_hid_dim")
    autoencoders = ()
    latent = False
    pipeline = "diffusers:IFPipeline"
    text_parts = ("text_encoder", "tokenizer")

    def embedded(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding."""
        return {"prompt": [PROMPT_TOKENS, config["encoder_hid_dim"]]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of T5."""
        return {"text_encoder": config["encoder_hid_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns T5's last hidden states of the prompt in lower case, not cleaned of mark-up."""
        embedding_1MD, _ = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device="cpu", clean_caption=False
        )
        return {"prompt": embedding_1MD[0]}
