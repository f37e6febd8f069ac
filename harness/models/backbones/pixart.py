"""The family of `PixArtTransformer2DModel`: PixArt-α and PixArt-Σ (Chen et al. 2023, 2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import factor_of
from harness.models.backbones.family import check_numbers, check_patches
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.prompted import PromptedFamily

if TYPE_CHECKING:
    import torch

ALPHA, SIGMA = "diffusers:PixArtAlphaPipeline", "diffusers:PixArtSigmaPipeline"
ALPHA_TOKENS, SIGMA_TOKENS = 120, 300  # of a prompt
CONDITIONED = (
    128  # the sample_size whose networks are told resolution and aspect ratio unless they say otherwise
)
FACTOR = 8  # of the VAE, as the pipelines assume without one


class PixArtFamily(PromptedFamily):
    """`PixArtTransformer2DModel`: a DiT that reads T5's embedding by cross-attention, padding masked.

    Both pipelines embed prompts alike, but cut them at 120 (α) and 300 tokens (Σ); the pipeline's index says which it
    is. Prompts are not cleaned of HTML and the like, which the pipelines do only where more packages are installed.
    The unconditional pass is that of the empty prompt.
    """

    network = "diffusers:PixArtTransformer2DModel"
    folder = "transformer"
    needed = ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim")
    defaults = {"patch_size": 2, "cross_attention_dim": 1152, "out_channels": 8}
    autoencoders = ("vae",)
    latent = True
    pipeline = SIGMA
    computed = ("resolution", "aspect_ratio")
    text_parts = ("text_encoder", "tokenizer")

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are no counts, patches that do not divide the map, and layers of other networks."""
        counts = {name: config[name] for name in (*self.needed, "patch_size", "cross_attention_dim")}
        check_numbers(counts, path)
        check_patches(config, path)
        channels, out = config["in_channels"], config["out_channels"]
        if out not in (None, channels, 2 * channels):
            raise UserError(
                f"{path}: out_channels = {out!r}: expected {channels}, or {2 * channels} with a learnt variance"
            )
        if config.get("attention_type", "default") != "default":
            raise UserError(
                f"{path}: attention_type = {config['attention_type']!r} needs boxes or phrases besides the prompt; "
                "expected 'default'"
            )
        width = config["num_attention_heads"] * config["attention_head_dim"]
        if _conditioned(config) and width % 3:
            raise UserError(
                f"{path}: a width of {width} = num_attention_heads x attention_head_dim is not divisible by 3, for "
                "height, width and aspect ratio"
            )

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Says what the parts called "cross-attention" read."""
        return [
            "cross-attention: under the empty prompt T5 gives one token, so its output is the same for all images"
        ]

    def pipeline_of(self, source: Pipeline) -> str:
        """Returns the pipeline that the index names."""
        return ALPHA if source.kind == ALPHA.partition(":")[2] else SIGMA

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the prompt's embedding and its mask; of α at 1024 pixels, also of the size."""
        conditioned = _conditioned(config)
        tokens = ALPHA_TOKENS if conditioned else SIGMA_TOKENS
        width = config.get("caption_channels") or config["cross_attention_dim"]
        size = {"resolution": [2], "aspect_ratio": [1]} if conditioned else {}
        return {"prompt": [tokens, width], "mask": [tokens], **size}

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of T5's encoder."""
        return {"text_encoder": config.get("caption_channels") or config["cross_attention_dim"]}

    def further_settings(self, source: Pipeline, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the height and width of images in pixels, if the network is told."""
        return (
            {"size": config["sample_size"] * (factor_of(source.root / "vae") or FACTOR)}
            if _conditioned(config)
            else {}
        )

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the resolution and the aspect ratio of square images, if the network is told."""
        import torch

        if not _conditioned(config):
            return {}
        size = float(settings["size"])
        return {"resolution": torch.tensor([size, size]), "aspect_ratio": torch.tensor([1.0])}

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns T5's last hidden states, padded, and which of the tokens are the prompt's."""
        embedding_1MD, mask_1M, _, _ = pipeline.encode_prompt(prompt, False, device="cpu")
        return {"prompt": embedding_1MD[0], "mask": mask_1M[0]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the prompt, and the size of images where it is told."""
        size = {name: condition.get(name) for name in ("resolution", "aspect_ratio")}
        return network(
            z_BCHW,
            condition["prompt"],
            time_B,
            size,
            encoder_attention_mask=condition["mask"],
        ).sample


FAMILY = PixArtFamily()


def _conditioned(config: Mapping[str, Any]) -> bool:
    """Returns whether the network is told the size of images, as it decides itself."""
    given = config.get("use_additional_conditions")
    return config["sample_size"] == CONDITIONED if given is None else bool(given)
