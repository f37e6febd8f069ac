"""What study 1 sweeps."""

from typing import Annotated, Literal

from pydantic import Field

from harness.core.config import Config, part, unkeyed
from harness.features.heads.head import HEADS, Head
from harness.features.heads.linear import Linear
from harness.models.backbone import BACKBONES, Backbone, UNet
from harness.training.config import TrainConfig


class OnBackbone(Config):
    """Base of the sections about a diffusion backbone. Where one leaves these out, it has those of `features:`."""

    backbone: Annotated[Backbone, part(BACKBONES)] = UNet()
    train: TrainConfig = TrainConfig(steps=20_000, batch=128, learning_rate=2e-4, clip=1.0, ema=0.999)


class FeaturesConfig(OnBackbone):
    """The `features:` section of an experiment."""

    blocks: Literal["all"] | Annotated[list[int], Field(min_length=1)] = "all"  # numbered from 1
    timesteps: list[int] = Field([10, 30, 50, 90, 150, 300, 500], min_length=1)
    pools: list[int] = Field([1, 2, 4], min_length=1)  # average-pooled to pool x pool
    heads: list[Annotated[Head, part(HEADS)]] = Field([Linear()], min_length=1)
    draws: int = Field(1, ge=1, le=10_000)  # noise draws a feature is averaged over
    controls: list[Literal["pixels", "untrained"]] = Field(["pixels", "untrained"])
    batch: int = unkeyed(256, ge=1)  # images in one forward pass
    shard: int = unkeyed(
        8192, ge=1
    )  # images in one artifact, which one task makes: what a lost machine costs
