"""The family of `UNet2DConditionModel`: Stable Diffusion 1 and 2, read with the empty prompt."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.blocks import Block, Step
from harness.models.backbones.family import check_numbers
from harness.models.backbones.latent import LatentFamily
from harness.models.backbones.pipeline import CONFIG, Parts, Pipeline
from harness.models.backbones.unet import Costs, check_unet, middle_of, steps_of

if TYPE_CHECKING:
    import torch

PROMPT = "empty_prompt.safetensors"  # the embedding of the empty prompt
PROMPT_TOKENS = 77  # of CLIP's text encoder, padding included
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
OTHER_CONDITIONS = (  # other than the prompt
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "dual_cross_attention",
    "only_cross_attention",
)


class ConditionalUNetFamily(LatentFamily):
    """`UNet2DConditionModel`, on the latents of its VAE and with the empty prompt."""

    network = "diffusers:UNet2DConditionModel"
    folder = "unet"
    needed = ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim")
    defaults = {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "out_channels": 4,
    }
    hub_files = (
        *LatentFamily.hub_files,
        PROMPT,
        "text_encoder/*.json",
        "text_encoder/model.safetensors",
        "tokenizer/*.json",
        "tokenizer/merges.txt",
    )
    condition = "the empty prompt"

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses unknown block types, and conditions other than the prompt, which cannot be left empty."""
        names = ("cross_attention_dim", "transformer_layers_per_block")
        check_unet(config, path, self.class_name, DOWN, UP, "UNetMidBlock2DCrossAttn")
        check_numbers({name: config.get(name, 1) for name in names}, path)
        for name in OTHER_CONDITIONS:
            if config.get(name):
                raise UserError(
                    f"{path}: {name} = {config[name]!r}: requires a condition other than the prompt, which cannot "
                    "be left empty; Stable Diffusion 1 and 2 are supported"
                )

    def steps(self, config: Mapping[str, Any]) -> tuple[list[Step], float]:
        """Numbers blocks as in a `UNet2DModel`."""
        return steps_of({**config, "add_attention": True}, PromptedCosts(config))

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block between input and output blocks."""
        return middle_of(blocks)

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any]) -> Parts:
        """Adds the stored embedding of the empty prompt, or the files of the text encoder and tokenizer."""
        parts = super().parts(pipeline, config)
        stored, text = pipeline.file(PROMPT), _text(pipeline)
        if stored is not None:
            return parts._replace(files=[*parts.files, stored])
        if text is None:
            raise UserError(
                f"{pipeline.root}: has neither text_encoder and tokenizer nor {PROMPT}, which the empty prompt "
                "needs; give the folder of the whole pipeline"
            )
        encoder, tokenizer = text
        width, needed = read_json(encoder / CONFIG).get("hidden_size"), config["cross_attention_dim"]
        if width != needed:
            raise UserError(
                f"{encoder / CONFIG}: hidden_size = {width!r}, but the network has cross_attention_dim = {needed}"
            )
        files = [encoder / CONFIG, encoder / "model.safetensors", *sorted(tokenizer.iterdir())]
        return parts._replace(files=[*parts.files, *files])

    def write_parts(self, pipeline: Pipeline, folder: Path) -> None:
        """Copies the VAE, and writes the prompt's embedding: as stored, or as computed by the text encoder."""
        from safetensors.torch import save_file

        super().write_parts(pipeline, folder)
        stored, text = pipeline.file(PROMPT), _text(pipeline)
        if stored is not None:
            shutil.copyfile(stored, folder / PROMPT)
        elif text is not None:
            save_file({"embedding": empty_prompt(*text)}, folder / PROMPT)

    def open_condition(self, folder: Path) -> "torch.Tensor":
        """Reads the text encoder's embedding of the empty prompt [M, D]."""
        from safetensors.torch import load_file

        return load_file(folder / PROMPT)["embedding"]

    def run(
        self, network: Any, z_BCHW: "torch.Tensor", time_B: "torch.Tensor", condition: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Runs the network with the empty prompt."""
        assert condition is not None
        return network(z_BCHW, time_B, condition.expand(len(z_BCHW), -1, -1)).sample


FAMILY = ConditionalUNetFamily()


class PromptedCosts(Costs):
    """Multiply-accumulates of a U-Net whose attention also reads a prompt."""

    def __init__(self, network: Mapping[str, Any]) -> None:
        super().__init__(network)
        self._layers = network.get("transformer_layers_per_block", 1)
        self._prompt = network.get("cross_attention_dim", 1280)

    def attention(self, width: int, size: int) -> float:
        """Whole transformer blocks: self- and cross-attention, gated feed-forward of ratio 4."""
        tokens = size**2
        cross = 2 * tokens * width**2 + 2 * PROMPT_TOKENS * width * (self._prompt + tokens)
        own = super().attention(width, size)
        return self._layers * (own + cross + 12 * tokens * width**2) + 2 * tokens * width**2


def _text(pipeline: Pipeline) -> tuple[Path, Path] | None:
    """Returns the folders of text encoder and tokenizer; None unless both exist."""
    encoder, tokenizer = pipeline.part("text_encoder"), pipeline.part("tokenizer")
    return (encoder, tokenizer) if encoder and tokenizer else None


def empty_prompt(encoder: Path, tokenizer: Path) -> "torch.Tensor":
    """Returns the embedding of "" [77, D], padded as by Stable Diffusion's pipeline."""
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would overwrite the sweep's display
    words = CLIPTokenizer.from_pretrained(tokenizer)
    tokens = words("", padding="max_length", max_length=words.model_max_length, truncation=True)
    model = CLIPTextModel.from_pretrained(encoder, use_safetensors=True, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens["input_ids"]])).last_hidden_state[0].contiguous()
