"""Diffusion backbones as data: how they are configured, what blocks and noise levels they have, and how to name them.

No torch here, so that a plan knows every block, channel count, map size, cost and noise level at once.
`harness.models.backbones.blocks` numbers the blocks, `harness.models.backbones.denoiser` builds the networks.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from harness.core.config import Config
from harness.core.errors import UserError, did_you_mean
from harness.core.fingerprint import fingerprint
from harness.core.registry import Registry
from harness.models.backbones import schedule
from harness.models.backbones.blocks import Block, blocks, middle
from harness.models.backbones.blocks import multiplications as multiplications
from harness.models.backbones.schedule import NoiseLevel

BACKBONES = Registry(
    "backbone",
    {
        "unet": "harness.models.backbones.backbone:UNet",
        "pretrained": "harness.models.backbones.pretrained:Pretrained",
        "adm": "harness.models.backbones.adm:ADM",
    },
)
SIGNIFICANT = 6  # digits of a noise level in tables: the rest differs between machines


class BackbonePlan(NamedTuple):
    """All that is known of a backbone before it is built."""

    unet: Mapping[
        str, Any
    ]  # the config.json of a diffusers network; a `UNet2DModel` unless `_class_name` says more
    scheduler: Mapping[str, Any]  # the scheduler_config.json of a diffusers `DDPMScheduler`
    blocks: list[Block]
    source: str | None  # what the weights are read from: a local folder or file; None: it is trained here
    fingerprint: str
    vae: Mapping[str, Any] | None = None  # the config.json of the `AutoencoderKL` whose latents it denoises
    random: bool = False  # random weights instead of those of `source`, everything else as there

    def untrained(self) -> Self:
        """Returns the control: the same network with random weights, on the same latents."""
        return self._replace(random=True) if self.vae is not None else self._replace(source=None)

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels: timesteps go from 0 (least noise) to T - 1."""
        return int(self.scheduler["num_train_timesteps"])

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """What is left of the image's variance at each timestep [T], float64."""
        return schedule.alphas_cumprod(self.scheduler)

    def sigma(self, step: int) -> float | None:
        """Noise over signal, sqrt(1 / a - 1), at a timestep; None where nothing is left of the image."""
        left = self.alphas_cumprod[step]
        return _rounded(np.sqrt(1 / left - 1)) if left > 0 else None

    def log_snr(self, step: int) -> float | None:
        """ln(a / (1 - a)) at a timestep; None where nothing is left of the image."""
        left = self.alphas_cumprod[step]
        return _rounded(np.log(left / (1 - left))) if left > 0 else None

    def step(self, value: int | NoiseLevel, where: str = "features.timesteps") -> int:
        """Returns a timestep as given, or the one nearest to a noise level; raises `UserError` out of range."""
        if isinstance(value, NoiseLevel):
            return schedule.nearest_step(value, self.alphas_cumprod, where)
        if not 0 <= value < self.timesteps:
            raise UserError(f"{where}: {value} is not between 0 and {self.timesteps - 1}, where T ends")
        return value

    def steps(self, values: Sequence[int | NoiseLevel], where: str = "features.timesteps") -> list[int]:
        """Returns the timesteps that a setting names, in its order; raises `UserError` for one named twice."""
        found: list[int] = []
        for value in values:
            step = self.step(value, where)
            if step in found:
                level = f"{value.given} is step {step}, which" if isinstance(value, NoiseLevel) else f"{step}"
                raise UserError(f"{where}: {level} is given twice")
            found.append(step)
        return found

    def find(self, number: int) -> Block:
        """Returns block `number`; raises `UserError` with the allowed range."""
        if not 1 <= number <= len(self.blocks):
            raise UserError(f"block {number}: this backbone has blocks 1 to {len(self.blocks)}")
        return self.blocks[number - 1]

    def select(self, value: str | int | Sequence[str | int], where: str = "features.blocks") -> list[Block]:
        """Returns the blocks that a setting names, in its order.

        A block goes by number or module path; "mid" is the middle block (of a transformer, the one at half depth),
        "up" all after it, "all" all. Raises `UserError` for one that is not there or named twice.
        """
        found: list[Block] = []
        for name in [value] if isinstance(value, str | int) else value:
            for block in [self.find(name)] if isinstance(name, int) else self._named(name):
                if block in found:
                    twice = "" if name == block.number else f" (block {block.number}, {block.name})"
                    raise UserError(f"{where}: {name} is given twice{twice}")
                found.append(block)
        return found

    def _named(self, name: str) -> list[Block]:
        centre = middle(self.blocks)
        groups = {"all": self.blocks, "mid": [centre], "up": self.blocks[centre.number :]}
        named = groups | {block.name: [block] for block in self.blocks}
        if name not in named:
            known = f"a number from 1 to {len(self.blocks)}, mid, up, all, or a module such as {centre.name}"
            near = did_you_mean(name, named).partition("known:")[0]
            raise UserError(f"unknown block {name[:80]!r}; {near}a block is {known}")
        return named[name]

    def lines(self, timesteps: Sequence[int]) -> list[str]:
        """Returns the table of blocks and the noise levels of `timesteps`, for people."""
        width = max(len(block.name) for block in self.blocks)
        lines = [f"{'block':>5}  {'module':{width}}  {'channels':>8}  {'size':>5}  {'cost up to here':>15}"]
        lines += [
            f"{block.number:>5}  {block.name:{width}}  {block.channels:>8}  {block.size:>5}  {block.share:>15.1%}"
            for block in self.blocks
        ]
        unit = "the VAE's latents" if self.vae is not None else "pixels"
        total = self.blocks[-1].cost / self.blocks[-1].share / 1e9
        lines.append(f"a pass over {unit}: {total:.3g} G multiply-accumulates an image")
        levels = ", ".join(
            f"{one}: {_text(self.sigma(one))} / {_text(self.log_snr(one))}" for one in timesteps
        )
        return [*lines, f"timestep: sigma / log-SNR, of T = {self.timesteps}: {levels}"]


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")


def _text(value: float | None) -> str:
    return "none left" if value is None else f"{value:.3g}"


# What a setting names blocks by: numbers from 1, module paths, "mid", "up" or "all"; one word, or a list of them.
BlockNames = str | Annotated[list[int | str], Field(min_length=1)]
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
