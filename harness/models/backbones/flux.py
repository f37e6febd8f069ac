"""The family of `FluxTransformer2DModel`: FLUX.1-dev and FLUX.1-schnell (Black Forest Labs 2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers
from harness.models.backbones.guided import GuidedFamily
from harness.models.backbones.joint import JointFamily, check_rotary

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 512  # of T5, padding included
PACKED = 2  # height and width of the patches of latents that are one token


class PackedFamily(JointFamily):
    """Networks of Flux's shape: blocks with a stream each for text and image, then blocks with a single one."""

    stacks: ClassVar[Mapping[str, str]] = {
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
    }
    needed: ClassVar[Sequence[str]] = (
        "in_channels",
        "num_layers",
        "num_single_layers",
        "joint_attention_dim",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "patch_size": 1,
        "out_channels": None,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    }

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and networks that read more than latents: fill, depth, canny."""
        check_numbers({name: config[name] for name in self.needed}, path)
        check_rotary(config, path)
        channels, out = config["in_channels"], config["out_channels"] or config["in_channels"]
        if config["patch_size"] != 1 or channels % PACKED**2:
            raise UserError(
                f"{path}: in_channels = {channels} with patch_size = {config['patch_size']}: expected latents in "
                f"patches of {PACKED} x {PACKED}, hence a multiple of {PACKED**2} with patch_size = 1"
            )
        if out != channels:
            raise UserError(
                f"{path}: in_channels = {channels} but out_channels = {out}: the network reads images besides "
                "latents (fill, depth, canny), which is not supported"
            )

    def patch(self, config: Mapping[str, Any]) -> int:
        """Returns the size of packed patches."""
        return PACKED

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of latents before they are packed."""
        return config["in_channels"] // PACKED**2

    def packed(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        prompt_BMD: "torch.Tensor",
        **further: Any,
    ) -> "torch.Tensor":
        """Runs the network on packed latents, told σ and `further`; returns its output as a map."""
        import torch
        from diffusers import FluxPipeline

        batch, channels, height, width = z_BCHW.shape
        device, dtype = z_BCHW.device, z_BCHW.dtype
        rows, columns = height // PACKED, width // PACKED
        packed_BNC = network(
            FluxPipeline._pack_latents(z_BCHW, batch, channels, height, width),
            encoder_hidden_states=prompt_BMD,
            timestep=time_B / 1000,
            img_ids=FluxPipeline._prepare_latent_image_ids(batch, rows, columns, device, dtype),
            txt_ids=torch.zeros(prompt_BMD.shape[1], 3, device=device, dtype=dtype),
            **further,
        ).sample
        return FluxPipeline._unpack_latents(packed_BNC, height, width, 1)


class FluxFamily(PackedFamily, GuidedFamily):
    """`FluxTransformer2DModel`, told T5's embedding, CLIP's pooled one, and the guidance scale if it is distilled."""

    network = "diffusers:FluxTransformer2DModel"
    needed = (*PackedFamily.needed, "pooled_projection_dim")
    defaults = {**PackedFamily.defaults, "guidance_embeds": False}
    pipeline = "diffusers:FluxPipeline"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")  # of the same weights
    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    guidance_scale = 3.5

    def embedding_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of T5's embedding and of CLIP's pooled one."""
        return {
            "prompt": [PROMPT_TOKENS, config["joint_attention_dim"]],
            "pooled": [config["pooled_projection_dim"]],
        }

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the widths of CLIP and T5."""
        return {
            "text_encoder": config["pooled_projection_dim"],
            "text_encoder_2": config["joint_attention_dim"],
        }

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns T5's embedding, padded to the pipeline's 512 tokens, and CLIP's pooled one."""
        embedding_1MD, pooled_1D, _ = pipeline.encode_prompt(prompt, device="cpu")
        return {"prompt": embedding_1MD[0], "pooled": pooled_1D[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network on packed latents; it predicts the velocity of the flow."""
        further = {"pooled_projections": condition["pooled"], "guidance": condition.get("guidance")}
        return self.packed(network, z_BCHW, time_B, condition["prompt"], **further)


FAMILY = FluxFamily()
