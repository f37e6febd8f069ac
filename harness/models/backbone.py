"""Diffusion backbones as data: how they are configured, and how their blocks are numbered.

No torch here, so that a plan knows every block, channel count and map size at once. Blocks are numbered from 1
over input blocks, the middle block and output blocks, as in guided-diffusion (ADM): a down-sampler is a block of
its own, an up-sampler belongs to its level's last block. `harness.models.denoiser` builds the networks.
"""

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from safetensors import SafetensorError, safe_open

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

NEEDED = ("sample_size", "in_channels", "block_out_channels", "down_block_types", "up_block_types")


SCHEDULES = (
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "sigmoid",
    "laplace",
)  # of diffusers' DDPMScheduler


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


Width = Annotated[int, Field(le=65_536)]


class Backbone(Config):
    """Base of all backbone configurations."""

    name: str

    @abstractmethod
    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Says what the backbone is for square images; called once a plan. Raises `UserError` if it cannot be."""


class UNet(Backbone):
    """A `UNet2DModel` that the sweep trains. One entry of `block_out_channels` a resolution, finest first."""

    name: Literal["unet"] = "unet"
    block_out_channels: list[Width] = Field([64, 128, 256], min_length=1, max_length=12)
    attention: list[bool] | None = None  # one a resolution; None: at all but the finest
    layers_per_block: int = Field(2, ge=1, le=32)
    attention_head_dim: int = Field(8, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    timesteps: int = Field(1000, ge=1, le=100_000)
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
            if width < 1 or width % self.norm_num_groups or width % self.attention_head_dim:
                raise UserError(
                    f"backbone.block_out_channels = {width}: not divisible by norm_num_groups "
                    f"{self.norm_num_groups} and attention_head_dim {self.attention_head_dim}"
                )
        if size == 2 ** (levels - 1) and self.block_out_channels[-1] == self.norm_num_groups:
            raise UserError(
                f"backbone.norm_num_groups = {self.norm_num_groups}: the smallest map has one pixel and as many "
                "channels, which leaves nothing to normalise; give fewer groups or fewer block_out_channels"
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
        folder = self._folder()
        model = folder / "unet" if (folder / "unet").is_dir() else folder
        unet = _read_json(model / "config.json")
        if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
            raise UserError(
                f"{model}: holds a {unet['_class_name']}; backbone 'pretrained' reads UNet2DModel"
            )
        missing = [name for name in NEEDED if unet.get(name) is None]
        if missing:
            raise UserError(
                f"{model / 'config.json'}: has no {missing[0]!r}; is it the configuration of a UNet2DModel?"
            )
        weights = model / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise UserError(
                f"{weights}: not there; save the model with save_pretrained(safe_serialization=True)"
            )
        _check_unet(unet, model / "config.json")
        _check_weights(weights, unet)
        if (unet["sample_size"], unet["in_channels"]) != (size, channels):
            raise UserError(
                f"{model} reads images of {unet['sample_size']} pixels and {unet['in_channels']} channels, "
                f"the data has {size} and {channels}; "
                f"set data.size={unet['sample_size']} data.channels={unet['in_channels']}"
            )
        settings = folder / "scheduler" / "scheduler_config.json"
        scheduler = _read_json(settings) if settings.is_file() else {}
        scheduler = {
            name: scheduler[name]
            for name in ("beta_schedule", "beta_start", "beta_end", "trained_betas")
            if scheduler.get(name) is not None
        } | {"num_train_timesteps": scheduler.get("num_train_timesteps", 1000)}
        _check_scheduler(scheduler, settings)
        key = fingerprint([unet, scheduler, checksum(weights)])
        return BackbonePlan(unet, scheduler, blocks(unet), str(model), key)

    def _folder(self) -> Path:
        try:
            folder = Path(self.path).expanduser()
            there = bool(self.path) and folder.is_dir()
        except (OSError, RuntimeError, ValueError):  # too long, no such user, a null character
            there = False
        if not there:
            raise UserError(
                f"backbone.path {self.path[:200]!r}: no such folder; give one that save_pretrained wrote"
            )
        return folder


KINDS = (
    ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    (
        "UpBlock2D",
        "AttnUpBlock2D",
        "ResnetUpsampleBlock2D",
    ),
)


def _check_unet(unet: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError` for a U-Net whose blocks cannot be numbered, or that asks for more than an image."""
    widths, layers = unet.get("block_out_channels"), unet.get("layers_per_block", 2)
    if not isinstance(widths, list) or not widths or not all(_positive(width) for width in widths):
        raise UserError(f"{path}: block_out_channels = {widths!r}: expected a list of channel counts")
    for name, known in zip(("down_block_types", "up_block_types"), KINDS, strict=True):
        kinds = unet.get(name)
        if not isinstance(kinds, list) or len(kinds) != len(widths) or not set(map(str, kinds)) <= set(known):
            raise UserError(f"{path}: {name} = {kinds!r}: expected {len(widths)} of {', '.join(known)}")
    numbers = {name: unet.get(name) for name in ("sample_size", "in_channels")} | {"layers_per_block": layers}
    for name, value in numbers.items():
        if not _positive(value):
            raise UserError(f"{path}: {name} = {value!r}: expected a positive integer")
    groups = unet.get("norm_num_groups", 32)
    if not _positive(groups) or any(width % groups for width in widths):
        raise UserError(f"{path}: norm_num_groups = {groups!r} does not divide block_out_channels = {widths}")
    if unet.get("mid_block_type", "UNetMidBlock2D") != "UNetMidBlock2D":
        raise UserError(f"{path}: mid_block_type = {unet['mid_block_type']!r}: expected UNetMidBlock2D")
    for name in ("num_class_embeds", "class_embed_type"):
        if unet.get(name) is not None:
            raise UserError(
                f"{path}: {name} = {unet[name]!r}: only backbones without class labels can be read"
            )


def _check_weights(weights: Path, unet: Mapping[str, Any]) -> None:
    """Raises `UserError` for a file of weights that is damaged or belongs to another configuration."""
    try:
        with safe_open(weights, framework="numpy") as file:
            shape = file.get_slice("conv_in.weight").get_shape()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not the weights of a UNet2DModel: {error}") from None
    expected = [unet["block_out_channels"][0], unet["in_channels"]]
    if shape[:2] != expected:
        raise UserError(
            f"{weights}: the first layer has shape {shape}, config.json says {expected} and its kernel"
        )


def _check_scheduler(scheduler: Mapping[str, Any], path: Path) -> None:
    steps, kind = scheduler["num_train_timesteps"], scheduler.get("beta_schedule", "linear")
    if not _positive(steps):
        raise UserError(f"{path}: num_train_timesteps = {steps!r}: expected a positive integer")
    if kind not in SCHEDULES:
        raise UserError(f"{path}: beta_schedule = {kind!r}: expected one of {', '.join(SCHEDULES)}")
    for name in ("beta_start", "beta_end"):
        value = scheduler.get(name, 0.01)
        if not isinstance(value, float | int) or not 0 < value < 1:
            raise UserError(f"{path}: {name} = {value!r}: expected a number between 0 and 1")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


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
