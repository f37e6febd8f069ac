"""The family of `HunyuanDiT2DModel` (Li et al. 2024)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import factor_of
from harness.models.backbones.family import check_numbers, check_patches
from harness.models.backbones.pipeline import CONFIG, Pipeline
from harness.models.backbones.prompted import PromptedFamily

if TYPE_CHECKING:
    import torch

TOKENS, T5_TOKENS = 77, 256  # of the prompt, to both encoders; the network has an embedding for each place
FACTOR = 8  # of the VAE, which the pipeline takes as given
BASE = 512  # pixels at which rotary positions count single tokens
ORIGINAL = (1024.0, 1024.0)  # the size before cropping that the network is told, by the pipeline's default
POOLING_HEADS = 8


class HunyuanDiTFamily(PromptedFamily):
    """`HunyuanDiT2DModel`: a DiT with long skip connections that reads two encoders' embeddings by cross-attention.

    The unconditional pass is that of the empty prompt.
    """

    network = "diffusers:HunyuanDiT2DModel"
    folder = "transformer"
    stacks = {"blocks": "num_layers"}
    needed = ("sample_size", "in_channels", "patch_size", "num_layers")
    defaults = {
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "hidden_size": 1152,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "text_len": TOKENS,
        "text_len_t5": T5_TOKENS,
        "use_style_cond_and_image_meta_size": True,
    }
    autoencoders = ("vae",)
    latent = True
    pipeline = "diffusers:HunyuanDiTPipeline"
    computed = ("size", "label_style")
    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    @property
    def hub_files(self) -> Sequence[str]:  # type: ignore[override]
        """The text encoders and tokenizers; BERT's has a list of words."""
        return [*super().hub_files, "tokenizer/vocab.txt"]

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses sizes with which diffusers' own network cannot run."""
        counts = [name for name in self.defaults if name != "use_style_cond_and_image_meta_size"]
        check_numbers({name: config[name] for name in (*self.needed, *counts)}, path)
        check_patches(config, path)
        width = config["num_attention_heads"] * config["attention_head_dim"]
        if config["hidden_size"] != width:
            raise UserError(
                f"{path}: hidden_size = {config['hidden_size']}: expected {width} = num_attention_heads x "
                "attention_head_dim"
            )
        if config["attention_head_dim"] % 4:
            raise UserError(
                f"{path}: attention_head_dim = {config['attention_head_dim']}: rotary positions need a multiple of 4"
            )
        if config["num_layers"] % 2:
            raise UserError(
                f"{path}: num_layers = {config['num_layers']}: skip connections pair the blocks, so it must be even"
            )
        if config["cross_attention_dim_t5"] % POOLING_HEADS:
            raise UserError(
                f"{path}: cross_attention_dim_t5 = {config['cross_attention_dim_t5']} is not divisible by the "
                f"{POOLING_HEADS} heads that pool it"
            )
        for name, tokens in (("text_len", TOKENS), ("text_len_t5", T5_TOKENS)):
            if config[name] != tokens:
                raise UserError(
                    f"{path}: {name} = {config[name]}: expected {tokens}, as its pipeline embeds prompts"
                )

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of both embeddings and masks and, up to version 1.1, of size and style."""
        size = {"size": [6], "label_style": []} if config["use_style_cond_and_image_meta_size"] else {}
        return {
            "prompt": [TOKENS, config["cross_attention_dim"]],
            "mask": [TOKENS],
            "prompt_t5": [T5_TOKENS, config["cross_attention_dim_t5"]],
            "mask_t5": [T5_TOKENS],
            **size,
        }

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the widths of BERT's and T5's encoders."""
        return {
            "text_encoder": config["cross_attention_dim"],
            "text_encoder_2": config["cross_attention_dim_t5"],
        }

    def further_settings(self, source: Pipeline, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the height and width of images in pixels; refuses a VAE for which positions would be wrong."""
        factor = factor_of(source.root / "vae")
        if factor not in (None, FACTOR):
            raise UserError(
                f"{source.root / 'vae' / CONFIG}: a VAE whose images are {factor} times larger than latents; a "
                f"{self.class_name}'s positions are those of {FACTOR} times"
            )
        return {"size": config["sample_size"] * FACTOR}

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns original size, size and crop, as the pipeline's defaults have them, and the only style."""
        import torch

        if not config["use_style_cond_and_image_meta_size"]:
            return {}
        size = float(settings["size"])
        return {
            "size": torch.tensor([*ORIGINAL, size, size, 0.0, 0.0]),
            "label_style": torch.tensor(0),
        }

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the last hidden states of BERT and of T5, padded, and which of the tokens are the prompt's."""
        found: dict[str, torch.Tensor] = {}
        for number, end in enumerate(("", "_t5")):
            embedding_1MD, _, mask_1M, _ = pipeline.encode_prompt(
                prompt, "cpu", do_classifier_free_guidance=False, text_encoder_index=number
            )
            found |= {f"prompt{end}": embedding_1MD[0], f"mask{end}": mask_1M[0]}
        return found

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the prompt, the size of images, and positions as its pipeline makes them."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed

        patch = network.config.patch_size
        side, base = z_BCHW.shape[-1] // patch, BASE // FACTOR // patch
        positions = get_2d_rotary_pos_embed(
            network.inner_dim // network.num_heads,
            ((0, 0), (base, base)),  # of square images
            (side, side),
            device=z_BCHW.device,
            output_type="pt",
        )
        given = {name: value.contiguous() for name, value in condition.items()}
        return network(
            z_BCHW,
            time_B.to(z_BCHW.dtype),
            encoder_hidden_states=given["prompt"],
            text_embedding_mask=given["mask"],
            encoder_hidden_states_t5=given["prompt_t5"],
            text_embedding_mask_t5=given["mask_t5"],
            image_meta_size=given.get("size"),
            style=given.get("label_style"),
            image_rotary_emb=positions,
        ).sample


FAMILY = HunyuanDiTFamily()
