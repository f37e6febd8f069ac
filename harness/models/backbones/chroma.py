"""The family of `ChromaTransformer2DModel`: Chroma, made of FLUX.1-schnell (lodestones 2025)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.models.backbones.flux import PROMPT_TOKENS, PackedFamily

if TYPE_CHECKING:
    import torch


class ChromaFamily(PackedFamily):
    """`ChromaTransformer2DModel`, told T5's embedding and a mask of its padding."""

    network = "diffusers:ChromaTransformer2DModel"
    pipeline = "diffusers:ChromaPipeline"
    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline")  # of the same weights
    text_parts = ("text_encoder", "tokenizer")

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of T5's embedding and of the mask."""
        return {"prompt": [PROMPT_TOKENS, config["joint_attention_dim"]], "mask": [PROMPT_TOKENS]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of T5."""
        return {"text_encoder": config["joint_attention_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns T5's embedding, and the mask of all tokens up to the first of the padding."""
        embedding_1MD, _, mask_1M, *_ = pipeline.encode_prompt(
            prompt, device="cpu", do_classifier_free_guidance=False
        )
        return {"prompt": embedding_1MD[0], "mask": mask_1M[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network on packed latents; it predicts the velocity of the flow.

        As in diffusers' pipeline, the mask is of floating point, so that attention adds it to its scores.
        """
        import torch

        mask_BM = condition["mask"].to(z_BCHW.dtype)
        tokens = z_BCHW.shape[2] * z_BCHW.shape[3] // self.patch(network.config) ** 2
        mask_BN = torch.cat([mask_BM, mask_BM.new_ones(len(mask_BM), tokens)], 1)
        return self.packed(network, z_BCHW, time_B, condition["prompt"], attention_mask=mask_BN)


FAMILY = ChromaFamily()
