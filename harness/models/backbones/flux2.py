"""The family of `Flux2Transformer2DModel`: FLUX.2-dev and FLUX.2-klein (Black Forest Labs 2025)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers
from harness.models.backbones.guided import GuidedFamily
from harness.models.backbones.joint import JointFamily, check_rotary
from harness.models.backbones.pipeline import CONFIG, Pipeline
from harness.models.noise_processes.flow_matching import FlowMatching

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 512  # padding included
LAYERS = 3  # of the text encoder, whose hidden states are read side by side
DEEPEST = {"Flux2Pipeline": 30, "Flux2KleinPipeline": 27}  # of these layers


class Flux2Family(JointFamily, GuidedFamily):
    """`Flux2Transformer2DModel`: blocks with a stream each for text and image, then blocks of one sequence."""

    network = "diffusers:Flux2Transformer2DModel"
    stacks = {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"}
    needed = ("in_channels", "num_layers", "num_single_layers", "joint_attention_dim")
    defaults = {
        "patch_size": 1,
        "out_channels": None,
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "axes_dims_rope": [32, 32, 32, 32],
    }
    pipeline = "diffusers:Flux2Pipeline"
    pipelines = tuple(DEEPEST)
    text_parts = ("text_encoder", "tokenizer")
    guidance_scale = 4.0

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and networks that read more than latents."""
        check_numbers({name: config[name] for name in self.needed}, path)
        check_rotary(config, path)
        channels, out = config["in_channels"], config["out_channels"]
        if config["patch_size"] != 1:
            raise UserError(
                f"{path}: patch_size = {config['patch_size']!r}: expected 1, of latents in patches"
            )
        if out not in (None, channels):
            raise UserError(
                f"{path}: in_channels = {channels} but out_channels = {out}: networks that read more than latents "
                "are not supported; FLUX.2-dev and FLUX.2-klein are"
            )

    def points(self, block: str, modules: Sequence[str]) -> dict[str, str]:
        """Returns the parts of blocks with two streams; the others fuse attention with their MLP."""
        return {} if block.startswith("single") else super().points(block, modules)

    def spaced(self, found: FlowMatching, tokens: int) -> FlowMatching:
        """Returns the spacing of FLUX.2's pipelines, whose shift depends on the number of steps as well."""
        return found.spaced_for(tokens, even=True, empirical=True)

    def embedding_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding."""
        return {"prompt": [PROMPT_TOKENS, config["joint_attention_dim"]]}

    def pipeline_of(self, source: Pipeline) -> str:
        """Returns klein's pipeline for Qwen3, dev's for Mistral."""
        path = source.root / "text_encoder" / CONFIG
        klein = str(read_json(path).get("model_type")).startswith("qwen3")
        return "diffusers:Flux2KleinPipeline" if klein else self.pipeline

    def check_text(self, source: Pipeline, config: Mapping[str, Any]) -> None:
        """Refuses text encoders of another width, or without the layers that are read."""
        super().check_text(source, config)
        path = source.root / "text_encoder" / CONFIG
        found = read_json(path)
        layers = found.get("text_config", found).get("num_hidden_layers", 0)
        pipeline = self.pipeline_of(source).partition(":")[2]
        if layers < DEEPEST[pipeline]:
            raise UserError(
                f"{path}: num_hidden_layers = {layers}: a {pipeline} reads the text encoder's layer "
                f"{DEEPEST[pipeline]}"
            )

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of the text encoder, of which three layers are read."""
        return {"text_encoder": config["joint_attention_dim"] // LAYERS}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the hidden states of three layers side by side, padded to the pipeline's 512 tokens."""
        embedding_1MD, _ = pipeline.encode_prompt(prompt, device="cpu")
        return {"prompt": embedding_1MD[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network on the sequence of latents; it is told σ and predicts the velocity of the flow."""
        from diffusers import Flux2Pipeline

        prompt_BMD = condition["prompt"]
        tokens_BNC = network(
            Flux2Pipeline._pack_latents(z_BCHW),
            encoder_hidden_states=prompt_BMD,
            timestep=time_B / 1000,
            img_ids=Flux2Pipeline._prepare_latent_ids(z_BCHW[:1]).to(z_BCHW.device),
            txt_ids=Flux2Pipeline._prepare_text_ids(prompt_BMD[:1]).to(z_BCHW.device),
            guidance=condition.get("guidance"),
        ).sample
        return tokens_BNC.transpose(1, 2).unflatten(2, z_BCHW.shape[2:])


FAMILY = Flux2Family()
