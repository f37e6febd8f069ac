"""The configuration of study 1."""

from typing import Annotated, Literal

from pydantic import Field

from harness.core.config import Config, part, unkeyed
from harness.data.config import DataConfig
from harness.features.heads.difformer import DifFormer
from harness.features.heads.head import HEADS, Head
from harness.features.heads.linear import Linear
from harness.models.backbones.backbone import BACKBONES, Backbone, BlockNames
from harness.models.backbones.blocks import AFTER, OUTPUT
from harness.models.backbones.condition import Condition
from harness.models.backbones.unet import UNet
from harness.models.noise_processes.levels import Timestep
from harness.training.config import Augment, TrainConfig
from harness.training.regularisers import PLAIN, REGULARISERS, Regulariser


class OnBackbone(Config):
    """Base of the sections about a diffusion backbone. Fields left out are taken from `features:`."""

    backbone: Annotated[Backbone, part(BACKBONES)] = UNet()
    train: TrainConfig = TrainConfig(steps=20_000, batch=128, learning_rate=2e-4, clip=1.0, ema=0.999)


class Regularised(OnBackbone):
    """Base of the sections that compare differently regularised trainings of one backbone."""

    regularisers: list[Annotated[Regulariser, part(REGULARISERS)]] = Field([PLAIN], min_length=1)


class Combined(Config):
    """Features of several blocks, each at several timesteps, read by one head."""

    blocks: BlockNames
    timesteps: list[Timestep] = Field(min_length=1)
    pool: int = Field(4, ge=1)
    head: Annotated[Head, part(HEADS)] = DifFormer()


class FeaturesConfig(Regularised):
    """The `features:` section of an experiment."""

    blocks: BlockNames = "all"
    timesteps: list[Timestep] = Field([10, 30, 50, 90, 150, 300, 500], min_length=1)
    pools: list[int] = Field([1, 2, 4], min_length=1)  # average-pooled to pool x pool
    heads: list[Annotated[Head, part(HEADS)]] = Field([Linear()], min_length=1)
    after: list[Literal[AFTER]] = Field([OUTPUT], min_length=1)  # type: ignore[valid-type]  # parts of blocks to read
    conditions: list[Condition] = []  # of the backbone, each probed; empty: its own
    # fresh: images are noised; clean: they are not, though the network is told the timestep (arXiv 2412.03439)
    noise: list[Literal["fresh", "clean"]] = Field(["fresh"], min_length=1)
    draws: int = Field(1, ge=1, le=10_000)  # noise draws that each feature is averaged over
    views: int = Field(
        1, ge=1, le=10_000
    )  # of each training image, each with its own noise; all are training samples
    augment: Augment | None = (
        None  # crops and flips of the views after the first; None: only the noise differs
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on GPUs that support it
    transfer: list[DataConfig] = []  # further data sets, probed with the same backbone and settings
    combined: list[Combined] = []  # heads that read several blocks and timesteps at once
    controls: list[Literal["pixels", "untrained"]] = Field(["pixels", "untrained"])
    batch: int = unkeyed(256, ge=1)  # images per forward pass
    shard: int = unkeyed(
        8192, ge=1
    )  # largest number of images per artifact: what must be redone if a machine is lost
    memory_gb: float = unkeyed(
        4.0, gt=0
    )  # memory limit for the images, activations, features and head of one task
    caching: Literal["auto", "cached", "streamed"] = unkeyed(
        "auto"
    )  # auto: cached if the features fit into store_gb
    store_gb: float = unkeyed(100.0, gt=0)  # disk limit for the cached features of one data set
    # published (arXiv 2307.08702): heads learn by SGD from a stream, with new noise, crops and flips in every epoch
    protocol: Literal["ours", "published"] = "ours"
