"""Base of the families of `UNet2DConditionModel`, one for each condition that it is used with. No torch at import."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.blocks import Block
from harness.models.backbones.family import check_numbers
from harness.models.backbones.pipeline import INDEX, Pipeline
from harness.models.backbones.prompted import PromptedFamily
from harness.models.backbones.unet import check_unet, middle_of, parts_of_unet, unet_names

if TYPE_CHECKING:
    import torch

DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")
CENTRES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn", "UNetMidBlock2D", None)
# The default of `guidance_scale` of pipelines, for networks distilled to run under a guidance scale.
GUIDANCE = {
    "LatentConsistencyModelPipeline": 8.5,
    "StableDiffusionPipeline": 7.5,
    "StableDiffusionXLPipeline": 5.0,
}
# Fields of networks that are told more than a family here tells them.
FURTHER_INPUTS = {
    "class_embed_type": "a noise level or the embedding of an image, as upscalers and Stable unCLIP are",
    "num_class_embeds": "a class or a noise level, as the x4 upscaler of Stable Diffusion is",
    "dual_cross_attention": "an image and a text, as Versatile Diffusion is",
}


class Use(NamedTuple):
    """What a network is told besides noised map and timestep, as the fields of its configuration say."""

    encoder_hid_dim_type: str | None = None
    addition_embed_type: str | None = None
    guided: bool = False  # told a guidance scale


UNSUPPORTED: Mapping[tuple[str | None, str | None], str] = {
    ("text_image_proj", "text_image"): "Kandinsky 2.1",
    ("image_proj", "image_hint"): "the ControlNet of Kandinsky 2.2",
    ("text_proj", "text_time"): "Kolors",
}


def use_of(config: Mapping[str, Any]) -> Use:
    """Returns the use of a configuration; `encoder_hid_dim` alone means a projected text, as in diffusers."""
    projected = config.get("encoder_hid_dim_type")
    if projected is None and config.get("encoder_hid_dim") is not None:
        projected = "text_proj"
    return Use(projected, config.get("addition_embed_type"), config.get("time_cond_proj_dim") is not None)


class PromptedUNet(PromptedFamily):
    """`UNet2DConditionModel` in one of its uses, which a subclass names and conditions."""

    network = "diffusers:UNet2DConditionModel"
    folder = "unet"
    needed: ClassVar[Sequence[str]] = (
        "sample_size",
        "in_channels",
        "block_out_channels",
        "cross_attention_dim",
    )
    defaults = {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "out_channels": 4,
    }
    autoencoders: ClassVar[Sequence[str]] = ("vae",)
    latent = True
    use: ClassVar[Use]

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses unknown block types, other uses, and inputs other than the noised map."""
        check_unet(config, path, DOWN, UP, CENTRES)
        numbers = (*(name for name in self.needed if name != "block_out_channels"), "out_channels")
        check_numbers({name: config[name] for name in numbers}, path)
        self._check_use(config, path)
        for name, told in FURTHER_INPUTS.items():
            if config.get(name):
                raise UserError(
                    f"{path}: {name} = {config[name]!r}: the network is told {told}, which is not supported"
                )
        if config.get("attention_type", "default") != "default":
            raise UserError(
                f"{path}: attention_type = {config['attention_type']!r}: the network is told boxes or an image "
                "besides its prompt (GLIGEN), which is not supported"
            )
        kinds = [*config["down_block_types"], *config["up_block_types"]]
        crossed = config.get("only_cross_attention")
        if crossed and any(kind.startswith("CrossAttn") for kind in kinds):
            raise UserError(
                f"{path}: only_cross_attention = {crossed!r}: blocks without self-attention are supported as "
                "SimpleCrossAttn blocks alone"
            )
        read, made = config["in_channels"], config["out_channels"]
        if made not in (read, 2 * read):
            raise UserError(
                f"{path}: in_channels = {read}, out_channels = {made}: the network reads more than the noised map, "
                "as for inpainting, editing or upscaling, which is not supported"
            )

    def _check_use(self, config: Mapping[str, Any], path: Path) -> None:
        projected, added, guided = use_of(config)
        if (projected, added, guided) == self.use:
            return
        fields = {"encoder_hid_dim_type": projected, "addition_embed_type": added}
        if guided:
            fields["time_cond_proj_dim"] = config["time_cond_proj_dim"]
        given = ", ".join(f"{name} = {value!r}" for name, value in fields.items())
        model = UNSUPPORTED.get((projected, added), "no known model")
        raise UserError(
            f"{path}: {given}: the network of {model}, which is not supported; supported are Stable Diffusion 1, 2 "
            "and XL, their latent consistency models, Kandinsky 2.2, and DeepFloyd IF's first stage"
        )

    def block_names(self, config: Mapping[str, Any]) -> list[str]:
        """Numbers blocks as in a `UNet2DModel`; some distilled networks have no middle block."""
        return unet_names(config)

    def points(self, block: str, modules: Sequence[str]) -> dict[str, str]:
        """Returns the parts of a U-Net's block."""
        return parts_of_unet(block, modules)

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block between input and output blocks."""
        return middle_of(blocks)

    def embedded(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the tensors that `embed` returns."""
        raise NotImplementedError

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the embeddings, and of the guidance scale's."""
        guidance = {"guidance": [config["time_cond_proj_dim"]]} if self.use.guided else {}
        return {**self.embedded(config), **guidance}

    def further_settings(self, source: Pipeline, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the pipeline's default guidance scale, if the network is told one."""
        if not self.use.guided:
            return {}
        own = GUIDANCE[self.pipeline.rpartition(":")[2]]
        return {"guidance": GUIDANCE.get(index_of(source).get("_class_name", ""), own)}

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the embedding of the guidance scale, if the network is told one (Meng et al. 2023, section 3)."""
        if not self.use.guided:
            return {}
        import torch
        from diffusers import LatentConsistencyModelPipeline

        scale_1, width = torch.tensor([settings["guidance"] - 1]), config["time_cond_proj_dim"]
        embed: Any = LatentConsistencyModelPipeline.get_guidance_scale_embedding
        return {"guidance": embed(None, scale_1, embedding_dim=width)[0]}

    def added(self, condition: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor] | None":
        """Returns what diffusers calls `added_cond_kwargs`; None unless overridden."""
        return None

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network under its condition."""
        return network(
            z_BCHW,
            time_B,
            condition.get("prompt"),
            timestep_cond=condition.get("guidance"),
            added_cond_kwargs=self.added(condition),
        ).sample


def index_of(source: Pipeline) -> Mapping[str, Any]:
    """Returns the model_index.json of a pipeline; {} if it has none."""
    path = source.file(INDEX)
    return {} if path is None else read_json(path)
