"""Diffusion backbones as data: how they are configured, and how their blocks are numbered.

No torch here, so that a plan knows every block, channel count and map size at once. Blocks are numbered from 1
over input blocks, the middle block and output blocks, as in guided-diffusion (ADM): a down-sampler is a block of
its own, an up-sampler belongs to its level's last block. `harness.models.unet` builds the networks.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from harness.core.config import Config
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.registry import Registry

BACKBONES = Registry(
    "backbone",
    {
        "unet": "harness.models.backbone:UNet",
        "pretrained": "harness.models.backbone:Pretrained",
    },
)


class Block(NamedTuple):
    """One place where features are read."""

    number: int  # from 1
    name: str  # the module whose output it is
    channels: int
    size: int  # height and width of the feature map


class BackbonePlan(NamedTuple):
    """All that is known of a backbone before it is built."""

    unet: Mapping[str, Any]  # the config.json of a diffusers `UNet2DModel`
    scheduler: Mapping[str, Any]  # the scheduler_config.json of a diffusers `DDPMScheduler`
    blocks: list[Block]
    source: str | None  # a local folder whose weights are used; None: it is trained here
    fingerprint: str

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels: timesteps go from 0 (least noise) to T - 1."""
        return int(self.scheduler["num_train_timesteps"])

    def find(self, number: int) -> Block:
        """Returns block `number`; raises `UserError` with the allowed range."""
        if not 1 <= number <= len(self.blocks):
            raise UserError(f"block {number}: this backbone has blocks 1 to {len(self.blocks)}")
        return self.blocks[number - 1]


class Backbone(Config):
    """Base of all backbone configurations."""

    name: str

    @abstractmethod
    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Says what the backbone is for square images; called once a plan. Raises `UserError` if it cannot be."""


class UNet(Backbone):
    """A `UNet2DModel` that the sweep trains. One entry of `block_out_channels` a resolution, finest first."""

    name: Literal["unet"] = "unet"
    block_out_channels: list[int] = Field([64, 128, 256], min_length=1)
    attention: list[bool] | None = None  # one a resolution; None: at all but the finest
    layers_per_block: int = Field(2, ge=1)
    attention_head_dim: int = Field(8, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    timesteps: int = Field(1000, ge=1)
    schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Checks that resolutions and groups divide, and writes the diffusers configuration."""
        levels = len(self.block_out_channels)
        attention = [level > 0 for level in range(levels)] if self.attention is None else self.attention
        if len(attention) != levels:
            raise UserError(f"backbone.attention has {len(attention)} entries, block_out_channels {levels}")
        if size % 2 ** (levels - 1):
            raise UserError(
                f"images of {size} pixels cannot be halved {levels - 1} times; "
                "give fewer backbone.block_out_channels or another data.size"
            )
        for width in self.block_out_channels:
            if width < 1 or width % self.norm_num_groups or width % min(self.attention_head_dim, width):
                raise UserError(
                    f"backbone.block_out_channels = {width}: not divisible by norm_num_groups "
                    f"{self.norm_num_groups} and attention_head_dim {self.attention_head_dim}"
                )
        unet = {
            "sample_size": size,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": list(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "attention_head_dim": self.attention_head_dim,
            "norm_num_groups": self.norm_num_groups,
            "down_block_types": ["AttnDownBlock2D" if there else "DownBlock2D" for there in attention],
            "up_block_types": ["AttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attention)],
        }
        scheduler = {"num_train_timesteps": self.timesteps, "beta_schedule": self.schedule}
        return BackbonePlan(unet, scheduler, blocks(unet), None, fingerprint([unet, scheduler]))


class Pretrained(Backbone):
    """A `UNet2DModel` from a local folder in diffusers' format: a pipeline's folder, or that of its U-Net."""

    name: Literal["pretrained"] = "pretrained"
    path: str

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configuration and takes the checksum of the weights."""
        folder = Path(self.path).expanduser()
        model = folder / "unet" if (folder / "unet").is_dir() else folder
        unet = _read_json(model / "config.json")
        if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
            raise UserError(f"{model}: holds a {unet['_class_name']}; backbone 'pretrained' reads UNet2DModel")
        weights = model / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise UserError(f"{weights}: not there; save the model with save_pretrained(safe_serialization=True)")
        if (unet["sample_size"], unet["in_channels"]) != (size, channels):
            raise UserError(
                f"{model} reads images of {unet['sample_size']} pixels and {unet['in_channels']} channels, the data "
                f"has {size} and {channels}; set data.size={unet['sample_size']} data.channels={unet['in_channels']}"
            )
        settings = folder / "scheduler" / "scheduler_config.json"
        scheduler = _read_json(settings) if settings.is_file() else {}
        scheduler = {
            name: scheduler[name]
            for name in ("beta_schedule", "beta_start", "beta_end", "trained_betas")
            if scheduler.get(name) is not None
        } | {"num_train_timesteps": scheduler.get("num_train_timesteps", 1000)}
        return BackbonePlan(unet, scheduler, blocks(unet), str(model), fingerprint([unet, scheduler, checksum(weights)]))


def multiplications(blocks_: list[Block]) -> float:
    """Returns roughly how many multiplications one image costs: two 3x3 convolutions a block. For estimates."""
    return sum(2 * 9 * block.channels**2 * block.size**2 for block in blocks_)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def blocks(unet: Mapping[str, Any]) -> list[Block]:
    """Numbers the blocks of a `UNet2DModel` from its configuration."""
    widths = list(unet["block_out_channels"])
    layers, size, levels = unet.get("layers_per_block", 2), unet["sample_size"], len(widths)
    found = [("conv_in", widths[0], size)]
    for level, (width, kind) in enumerate(zip(widths, unet["down_block_types"], strict=True)):
        part = "attentions" if kind.startswith("Attn") else "resnets"
        found += [(f"down_blocks.{level}.{part}.{layer}", width, size) for layer in range(layers)]
        if level < levels - 1:
            size //= 2
            found.append((f"down_blocks.{level}.downsamplers.0", width, size))
    found.append(("mid_block", widths[-1], size))
    for level, (width, kind) in enumerate(zip(reversed(widths), unet["up_block_types"], strict=True)):
        part = "attentions" if kind.startswith("Attn") else "resnets"
        names = [f"up_blocks.{level}.{part}.{layer}" for layer in range(layers + 1)]
        if level < levels - 1:
            names[-1] = f"up_blocks.{level}.upsamplers.0"
        found += [(name, width, size) for name in names[:-1]]
        size = size * 2 if level < levels - 1 else size
        found.append((names[-1], width, size))
    return [Block(number, *block) for number, block in enumerate(found, start=1)]
