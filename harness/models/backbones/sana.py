"""The family of `SanaTransformer2DModel` (Sana, Xie et al. 2024, arXiv 2410.10629; Sana-Sprint, arXiv 2503.09641)."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.family import check_numbers, check_patches
from harness.models.backbones.flows import TIMESTEPS, check_flow
from harness.models.backbones.guided import GuidedFamily
from harness.models.backbones.pipeline import Pipeline
from harness.models.noise_processes.process import NoiseProcess

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 300


class SanaFamily(GuidedFamily):
    """`SanaTransformer2DModel`: linear attention over the latents of a deep compression autoencoder.

    Prompts stand behind the pipeline's "complex human instruction", as in its default call. The unconditional pass
    has the empty prompt without it. A network with `guidance_embeds` is Sana-Sprint's.
    """

    network = "diffusers:SanaTransformer2DModel"
    folder = "transformer"
    needed = ("sample_size", "in_channels", "num_layers", "caption_channels")
    defaults = {
        "patch_size": 1,
        "guidance_embeds": False,
        "guidance_embeds_scale": 0.1,
        "timestep_scale": 1.0,
    }
    autoencoders = ("vae",)
    latent = True
    conditions = ("prompt", "embeddings", "unconditional", "guidance")
    guidance_scale = 4.5  # of `SanaSprintPipeline`
    pipeline = "diffusers:SanaPipeline"
    text_parts = ("text_encoder", "tokenizer")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and patch sizes that do not divide the map."""
        check_numbers({name: config[name] for name in (*self.needed, "patch_size")}, path)
        check_patches(config, path)

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Refuses processes that are no flow."""
        return check_flow(found, self.class_name, path, told=config["guidance_embeds"], dynamic=False)

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of Gemma."""
        return {"text_encoder": config["caption_channels"]}

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the prompt and the guidance scale; refuses an unconditional pass where guidance is embedded."""
        if config["guidance_embeds"] and given.unconditional:
            raise UserError(
                f"backbone.unconditional is given, but a {self.class_name} with guidance_embeds has no "
                'unconditional pass: its guidance is embedded; set backbone.prompt="" instead'
            )
        return super().condition(source, config, given)

    def embedding_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the prompt's embedding and of its mask."""
        return {"prompt": [PROMPT_TOKENS, config["caption_channels"]], "mask": [PROMPT_TOKENS]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns Gemma's embeddings; of the unconditional pass without the instruction."""
        defaults = inspect.signature(pipeline.__call__).parameters
        instruction = defaults["complex_human_instruction"].default
        embedding_1MD, mask_1M, *negative = pipeline.encode_prompt(
            prompt, unconditional, device="cpu", complex_human_instruction=instruction
        )
        if unconditional:
            embedding_1MD, mask_1M = negative
        return {"prompt": embedding_1MD[0], "mask": mask_1M[0]}

    def read_scale(self, config: Mapping[str, Any], guidance: float) -> float:
        """Returns the guidance scale times guidance_embeds_scale."""
        return guidance * config["guidance_embeds_scale"]

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network, which predicts the velocity of the flow; with `guidance_embeds` it is told σ."""
        guidance_B = condition.get("guidance")
        scale = network.config.timestep_scale if guidance_B is None else 1 / TIMESTEPS
        return network(
            z_BCHW,
            encoder_hidden_states=condition["prompt"],
            encoder_attention_mask=condition["mask"].to(z_BCHW.dtype),
            timestep=time_B * scale,
            guidance=guidance_B,
        ).sample


FAMILY = SanaFamily()
