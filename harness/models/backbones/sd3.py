"""The family of `SD3Transformer2DModel` (Stable Diffusion 3 and 3.5; Esser et al. 2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.backbones.family import check_numbers, check_patches
from harness.models.backbones.prompted import PromptedFamily

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 77 + 256  # of the CLIP encoders, side by side, and of T5


class SD3Family(PromptedFamily):
    """`SD3Transformer2DModel`: image and text tokens side by side; blocks are read at the image's tokens."""

    network = "diffusers:SD3Transformer2DModel"
    folder = "transformer"
    needed = (
        "sample_size",
        "in_channels",
        "num_layers",
        "joint_attention_dim",
        "pooled_projection_dim",
    )
    defaults = {"patch_size": 2}
    autoencoders = ("vae",)
    latent = True
    pipeline = "diffusers:StableDiffusion3Pipeline"
    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    optional_text_parts = ("text_encoder_3", "tokenizer_3")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, and patch sizes that do not divide the map."""
        check_numbers({name: config[name] for name in (*self.needed, "patch_size")}, path)
        check_patches(config, path)

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the prompt's embedding and of the pooled one."""
        return {
            "prompt": [PROMPT_TOKENS, config["joint_attention_dim"]],
            "pooled": [config["pooled_projection_dim"]],
        }

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the embeddings of two CLIP encoders and of T5; zeros stand for a T5 that is absent."""
        embedding_1MD, _, pooled_1D, _ = pipeline.encode_prompt(
            prompt, prompt, prompt, "cpu", do_classifier_free_guidance=False
        )
        return {"prompt": embedding_1MD[0], "pooled": pooled_1D[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the prompt; it predicts the velocity of the flow."""
        return network(z_BCHW, condition["prompt"], condition["pooled"], time_B).sample

    def as_map(self, network: Any, module: str, output: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the image's tokens: a block returns the text's first, its attention returns them last."""
        if module.count(".") == 1:
            output = output[1]
        return super().as_map(network, module, output, z_BCHW)


FAMILY = SD3Family()
