"""The family of `AuraFlowTransformer2DModel`: AuraFlow and Pony v7 (fal 2024)."""

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers
from harness.models.backbones.joint import JointFamily
from harness.models.backbones.pipeline import CONFIG, Parts, Pipeline
from harness.models.noise_processes.flow_matching import FlowMatching

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 256  # of T5, padding included


class AuraFlowFamily(JointFamily):
    """`AuraFlowTransformer2DModel`: joint blocks, then blocks of one sequence; learnt positions."""

    network = "diffusers:AuraFlowTransformer2DModel"
    stacks = {
        "joint_transformer_blocks": "num_mmdit_layers",
        "single_transformer_blocks": "num_single_dit_layers",
    }
    needed = ("in_channels", "num_mmdit_layers", "num_single_dit_layers", "joint_attention_dim")
    defaults = {"patch_size": 2, "out_channels": 4, "pos_embed_max_size": 1024}
    pipeline = "diffusers:AuraFlowPipeline"
    pipelines = ("AuraFlowPipeline",)
    text_parts = ("text_encoder", "tokenizer")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and outputs that are no velocity of the latents."""
        counts = (*self.needed, "patch_size", "pos_embed_max_size")
        check_numbers({name: config[name] for name in counts}, path)
        if config["out_channels"] not in (None, config["in_channels"]):
            raise UserError(
                f"{path}: out_channels = {config['out_channels']} but in_channels = {config['in_channels']}: "
                "networks that read more than latents are not supported"
            )

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any], size: int) -> Parts:
        """Returns the other parts; refuses maps that are larger than the grid of learnt positions."""
        found = super().parts(pipeline, config, size)
        most = isqrt(config["pos_embed_max_size"]) * self.patch(config)
        if found.map_size > most:
            largest = found.size * most // found.map_size
            raise UserError(
                f"{pipeline.root / self.folder / CONFIG}: pos_embed_max_size = {config['pos_embed_max_size']} has "
                f"positions for images of at most {largest} pixels, but the data has {size}; set data.size={largest}"
            )
        return found

    def spaced(self, found: FlowMatching, tokens: int) -> FlowMatching:
        """Returns the scheduler's own spacing."""
        return found

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding."""
        return {"prompt": [PROMPT_TOKENS, config["joint_attention_dim"]]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of T5."""
        return {"text_encoder": config["joint_attention_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns T5's embedding, with zeros at the padding."""
        embedding_1MD, *_ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, device="cpu")
        return {"prompt": embedding_1MD[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the prompt; it is told σ and predicts the velocity of the flow."""
        return network(z_BCHW, condition["prompt"], time_B / 1000).sample


FAMILY = AuraFlowFamily()
