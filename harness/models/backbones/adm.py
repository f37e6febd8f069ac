"""The original checkpoints of guided-diffusion (ADM), and the equivalent diffusers `UNet2DModel`. No torch."""

from typing import Any, Literal

from pydantic import Field

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file
from harness.models.backbones.backbone import Backbone, BackbonePlan, Width
from harness.models.noise_processes.process import process_of

GROUPS = 32  # of every group normalisation in guided-diffusion
# Channel multipliers per resolution, finest first, by image_size; used without channel_mult.
MULTIPLIERS: dict[int, list[float]] = {
    512: [0.5, 1, 1, 2, 2, 4, 4],
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}


class ADM(Backbone):
    """An unconditional ADM `.pt` as released by guided-diffusion, with its flags; defaults are those of 256 px.

    Residual blocks do the up- and downsampling, and the timestep scales and shifts them (`--resblock_updown True
    --use_scale_shift_norm True`), as in all ADM models.
    """

    name: Literal["adm"] = "adm"
    path: str  # such as 256x256_diffusion_uncond.pt
    image_size: int = Field(256, ge=4, le=2048)
    in_channels: int = Field(3, ge=1, le=64)
    num_channels: Width = 256
    num_res_blocks: int = Field(2, ge=1, le=32)
    num_head_channels: int = Field(64, ge=1)
    attention_resolutions: list[int] = [32, 16, 8]  # map sizes, in pixels
    channel_mult: list[float] | None = Field(
        None, min_length=1, max_length=12
    )  # finest first; None: by image_size
    learn_sigma: bool = True
    diffusion_steps: int = Field(1000, ge=1, le=100_000)
    noise_schedule: Literal["linear", "cosine"] = "linear"

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Checks every tensor of the file against the network of these flags; computes its checksum."""
        path = existing_file(self.path)
        if path is None:
            raise UserError(
                f"backbone.path {self.path[:200]!r}: no such file; give a checkpoint of guided-diffusion, such as "
                "256x256_diffusion_uncond.pt"
            )
        if (self.image_size, self.in_channels) != (size, channels):
            raise UserError(
                f"{path} reads images of {self.image_size} pixels and {self.in_channels} channels, but the data has "
                f"{size} and {channels}; set data.size={self.image_size} data.channels={self.in_channels}"
            )
        unet, scheduler = self.unet(), self.scheduler()
        apart("harness.models.backbones.adm_weights:check", str(path), unet)
        key = fingerprint([unet, scheduler, checksum(path)])
        return BackbonePlan(unet, process_of(scheduler), str(path), key, self.image_size)

    def unet(self) -> dict[str, Any]:
        """Returns diffusers' config.json of the network; raises `UserError` for contradictory flags."""
        multipliers = self.channel_mult or MULTIPLIERS.get(self.image_size)
        if multipliers is None:
            raise UserError(
                f"backbone.channel_mult is missing: guided-diffusion has no default for image_size "
                f"{self.image_size}, only for {', '.join(map(str, MULTIPLIERS))}"
            )
        widths = [round(self.num_channels * multiplier) for multiplier in multipliers]
        sizes = [self.image_size // 2**level for level in range(len(widths))]
        attends = [size in self.attention_resolutions for size in sizes]
        if self.image_size % 2 ** (len(widths) - 1):
            raise UserError(
                f"backbone.image_size = {self.image_size} cannot be halved {len(widths) - 1} times"
            )
        if not set(self.attention_resolutions) <= set(sizes):
            raise UserError(
                f"backbone.attention_resolutions = {self.attention_resolutions}: this network's maps have sizes "
                f"{', '.join(map(str, sizes))}"
            )
        for width, attend in zip(widths, [*attends[:-1], True], strict=True):
            if width < 1 or width % GROUPS or (attend and width % self.num_head_channels):
                raise UserError(
                    f"backbone.num_channels x channel_mult gives {width} channels: not divisible by {GROUPS} groups "
                    f"or num_head_channels {self.num_head_channels}"
                )
        down = ["AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends]
        up = ["AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in reversed(attends)]
        return {
            "sample_size": self.image_size,
            "in_channels": self.in_channels,
            "out_channels": self.in_channels * (2 if self.learn_sigma else 1),
            "block_out_channels": widths,
            "layers_per_block": self.num_res_blocks,
            "attention_head_dim": self.num_head_channels,
            "norm_num_groups": GROUPS,
            "attn_norm_num_groups": GROUPS,
            "norm_eps": 1e-5,
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "down_block_types": down,
            "up_block_types": up,
        }

    def scheduler(self) -> dict[str, Any]:
        """Returns guided-diffusion's schedule: linear betas are those of 1000 steps, rescaled."""
        if self.noise_schedule == "cosine":
            return {"num_train_timesteps": self.diffusion_steps, "beta_schedule": "squaredcos_cap_v2"}
        scale = 1000 / self.diffusion_steps
        if scale * 0.02 >= 1:
            raise UserError(
                f"backbone.diffusion_steps = {self.diffusion_steps}: the linear schedule needs more than 20 steps"
            )
        return {
            "num_train_timesteps": self.diffusion_steps,
            "beta_schedule": "linear",
            "beta_start": scale * 1e-4,
            "beta_end": scale * 0.02,
        }
