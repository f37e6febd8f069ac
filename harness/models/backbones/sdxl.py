"""The U-Nets of Stable Diffusion XL, its distillations and latent consistency models (Podell et al. 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import factor_of
from harness.models.backbones.pipeline import CONFIG, INDEX, Parts, Pipeline
from harness.models.backbones.prompted_unet import PromptedUNet, Use, index_of
from harness.models.backbones.stable_diffusion import PROMPT_TOKENS

if TYPE_CHECKING:
    import torch

SIZES = 6  # numbers that tell sizes: of the original image, of the crop's corner, and of the target, two each


class SDXL(PromptedUNet):
    """`UNet2DConditionModel` with the prompt of two CLIP encoders, a pooled one, and the sizes of images.

    Images are said to have been uncropped and of the network's own size, as its pipeline does by default.
    """

    use = Use(addition_embed_type="text_time")
    needed = (*PromptedUNet.needed, "addition_time_embed_dim", "projection_class_embeddings_input_dim")
    conditions = (*PromptedUNet.conditions, "unconditional")
    pipeline = "diffusers:StableDiffusionXLPipeline"
    computed = ("guidance", "time_ids")
    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses widths that leave nothing for the pooled prompt."""
        super().check(config, path)
        if self._pooled(config) < 1:
            raise UserError(
                f"{path}: projection_class_embeddings_input_dim = {config['projection_class_embeddings_input_dim']} "
                f"is no more than {SIZES} times addition_time_embed_dim = {config['addition_time_embed_dim']}"
            )

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any], size: int) -> Parts:
        """Returns the VAE; refuses the refiner, which is told an aesthetic score instead of a size."""
        if index_of(pipeline).get("requires_aesthetics_score"):
            raise UserError(
                f"{pipeline.root / INDEX}: requires_aesthetics_score: a refiner, which denoises the last steps "
                "alone, is not supported; give its base model"
            )
        return super().parts(pipeline, config, size)

    def _pooled(self, config: Mapping[str, Any]) -> int:
        """Returns the width of the pooled prompt."""
        return config["projection_class_embeddings_input_dim"] - SIZES * config["addition_time_embed_dim"]

    def embedded(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the prompt's embedding and of the pooled one."""
        return {
            "prompt": [PROMPT_TOKENS, config["cross_attention_dim"]],
            "pooled": [self._pooled(config)],
        }

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the embeddings, of the sizes, and of the guidance scale's embedding."""
        return {**super().condition_shapes(config), "time_ids": [SIZES]}

    def check_text(self, source: Pipeline, config: Mapping[str, Any]) -> None:
        """Raises `UserError` unless both encoders, side by side, have the width that the network expects."""
        first, second = (
            read_json(source.root / name / CONFIG) for name in ("text_encoder", "text_encoder_2")
        )
        widths = [found.get("hidden_size", 512) for found in (first, second)]
        if sum(widths) != config["cross_attention_dim"]:
            raise UserError(
                f"{source.root}: text_encoder and text_encoder_2 have widths {widths[0]} and {widths[1]}, but the "
                f"network expects {config['cross_attention_dim']} together"
            )
        if second.get("projection_dim", 512) != self._pooled(config):
            raise UserError(
                f"{source.root / 'text_encoder_2' / CONFIG}: projection_dim = {second.get('projection_dim', 512)}, "
                f"but the network expects a pooled prompt of width {self._pooled(config)}"
            )

    def zeros(self, source: Pipeline) -> bool:
        """Returns what the pipeline's index says of its unconditional pass, by default true."""
        return bool(index_of(source).get("force_zeros_for_empty_prompt", True))

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the penultimate hidden states of both encoders, and the pooled output of the second."""
        embedding_1MD, _, pooled_1D, _ = pipeline.encode_prompt(
            prompt, device="cpu", do_classifier_free_guidance=False
        )
        return {"prompt": embedding_1MD[0], "pooled": pooled_1D[0]}

    def further_settings(self, source: Pipeline, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the height and width of images, in pixels, besides the default guidance scale."""
        factor = factor_of(source.root / "vae")
        assert factor is not None, "parts refuses a pipeline without"
        pixels = config["sample_size"] * factor
        return {**super().further_settings(source, config), "pixels": pixels}

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns original size, crop and target size, as the pipeline's `_get_add_time_ids` has them."""
        import torch

        size = [settings["pixels"]] * 2
        times = {"time_ids": torch.tensor([*size, 0, 0, *size])}
        return super().further_tensors(config, settings) | times

    def added(self, condition: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """Returns the pooled prompt and the sizes."""
        return {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}


class LatentConsistencyXL(SDXL):
    """A latent consistency model of SDXL, told the guidance scale that it was distilled from."""

    use = Use(addition_embed_type="text_time", guided=True)
    conditions = (*SDXL.conditions, "guidance")
