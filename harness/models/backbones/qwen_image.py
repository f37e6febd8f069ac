"""The family of `QwenImageTransformer2DModel`: Qwen-Image (Qwen team 2025)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers, parts_of_transformer
from harness.models.backbones.joint import JointFamily, check_rotary

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 5  # of the empty prompt: what its template adds, without padding
PACKED = 2  # height and width of the patches of latents that are one token
OF_OTHERS = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


class QwenImageFamily(JointFamily):
    """`QwenImageTransformer2DModel`: a stream each for text and image in all blocks; prompts are not padded."""

    network = "diffusers:QwenImageTransformer2DModel"
    needed = ("in_channels", "num_layers", "joint_attention_dim")
    defaults = {
        "patch_size": PACKED,
        "out_channels": 16,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    }
    pipeline = "diffusers:QwenImagePipeline"
    pipelines = (
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
        "QwenImageInpaintPipeline",
    )  # of the same weights
    text_parts = ("text_encoder", "tokenizer")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and networks for editing, layers or with a guidance input."""
        check_numbers({name: config[name] for name in self.needed}, path)
        check_rotary(config, path)
        for name in OF_OTHERS:
            if config.get(name):
                raise UserError(
                    f"{path}: {name} = {config[name]!r}: networks for editing, for layers, or that read a guidance "
                    "scale are not supported; Qwen-Image is"
                )
        channels, out = config["in_channels"], config["out_channels"]
        if config["patch_size"] != PACKED or not out or channels != out * PACKED**2:
            raise UserError(
                f"{path}: in_channels = {channels}, out_channels = {out} and patch_size = {config['patch_size']}: "
                f"expected patch_size = {PACKED} and in_channels = {PACKED**2} out_channels, of latents alone"
            )

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of latents before they are packed."""
        return config["in_channels"] // PACKED**2

    def points(self, block: str, modules: Sequence[str]) -> dict[str, str]:
        """Returns the parts of a block in the image's stream."""
        return {**parts_of_transformer(block, modules), "mlp": f"{block}.img_mlp"}

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the empty prompt's embedding; that of others depends on their length."""
        return {"prompt": [PROMPT_TOKENS, config["joint_attention_dim"]]}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of Qwen2.5-VL."""
        return {"text_encoder": config["joint_attention_dim"]}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the last hidden states of the prompt in its template; a single prompt has no padding to mask."""
        embedding_1MD, mask = pipeline.encode_prompt(prompt, device="cpu")
        assert mask is None
        return {"prompt": embedding_1MD[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network on packed latents; it is told σ and predicts the velocity of the flow."""
        from diffusers import QwenImagePipeline

        batch, channels, height, width = z_BCHW.shape
        packed_BNC = network(
            QwenImagePipeline._pack_latents(z_BCHW, batch, channels, height, width),
            encoder_hidden_states=condition["prompt"],
            timestep=time_B / 1000,
            img_shapes=[[(1, height // PACKED, width // PACKED)]] * batch,
        ).sample
        return QwenImagePipeline._unpack_latents(packed_BNC, height, width, 1)[:, :, 0]


FAMILY = QwenImageFamily()
