"""The configuration of CKA: what is compared with what."""

from typing import Annotated, Literal

from pydantic import Field

from harness.core.config import part, unkeyed
from harness.features.config import OnBackbone
from harness.metrics.cka import LEAST_IMAGES
from harness.models.backbones.backbone import BACKBONES, Backbone, BlockNames
from harness.models.encoders.encoder import ENCODERS, Encoder, Pixels, Random
from harness.models.noise_processes.levels import Timestep

Against = Literal["blocks", "timesteps", "pools", "untrained", "encoders", "others"]


class CKAConfig(OnBackbone):
    """The `cka:` section of an experiment."""

    blocks: BlockNames = "all"
    timesteps: list[Timestep] = Field([10, 30, 50, 90, 150, 300, 500], min_length=1)
    pools: list[int] = Field([1], min_length=1)  # average-pooled to pool x pool
    # blocks: pairs of blocks at each timestep; timesteps, pools: a block at pairs of those; untrained, encoders,
    # others: the blocks with those of the untrained backbone, the layers of `encoders`, the blocks of `others`
    against: list[Against] = Field(
        ["blocks", "timesteps", "pools", "untrained", "encoders", "others"], min_length=1
    )
    encoders: list[Annotated[Encoder, part(ENCODERS)]] = [Pixels(), Random()]
    others: dict[str, Annotated[Backbone, part(BACKBONES)]] = {}  # further backbones, by their labels in rows
    images: int = Field(2000, ge=LEAST_IMAGES, le=50_000)  # largest number of training images to compare on
    draws: int = Field(1, ge=1, le=10_000)  # noise draws that each feature is averaged over
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on GPUs that support it
    batch: int = unkeyed(256, ge=1)  # images per forward pass
    shard: int = unkeyed(
        8192, ge=1
    )  # largest number of images per artifact: what must be redone if a machine is lost
