"""What study 2 sweeps."""

import itertools
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.core.config import Config, part, unkeyed
from harness.training.config import TrainConfig, check_workers
from harness.weights.controls import CONTROLS, Average, Control, Gaussian, Noise

Width = Annotated[int, Field(ge=1, le=65_536)]  # channels of a layer


class NetworkConfig(Config):
    """The original network: a small ConvNet with group norm."""

    name: Literal["convnet"] = "convnet"
    channels: list[Width] = Field([16, 32, 32], min_length=1, max_length=30)
    groups: int = Field(4, ge=1)

    def parameter_shapes(self, in_channels: int, classes: int) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of `harness.models.convnet.ConvNet`'s parameters by name, in its order."""
        shapes: dict[str, tuple[int, ...]] = {}
        widths = [in_channels, *self.channels]
        for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            shapes[f"conv{number}.weight"] = (after, before, 3, 3)
            shapes[f"norm{number}.weight"] = shapes[f"norm{number}.bias"] = (after,)
        return {**shapes, "fc.weight": (classes, widths[-1]), "fc.bias": (classes,)}


class PoolConfig(Config):
    """The checkpoints: training goes on with all but the varied parameters frozen."""

    every: int = Field(1, ge=1, le=1_000_000)  # steps from one checkpoint to the next
    learning_rate: float = Field(0.03, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    batch: int = Field(64, ge=1)
    workers: int | list[int] = unkeyed(0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_workers(self.workers, self.batch)
        return self


class AutoencoderConfig(Config):
    """The autoencoder of parameter vectors. Noise is additive, on normalised parameters."""

    channels: list[Width] = Field([64, 128, 256, 256, 32], min_length=1, max_length=30)
    kernel: int = Field(7, ge=3, le=1023)
    latent: int = Field(128, ge=1, le=1_000_000)
    parameter_noise: float = Field(0.001, ge=0)
    latent_noise: float = Field(0.1, ge=0)
    train: TrainConfig = TrainConfig(steps=2000, batch=50, learning_rate=1e-3, schedule="cosine", workers=0)

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd")
        return kernel


class DiffusionConfig(Config):
    """The diffusion model of latents."""

    channels: list[Width] = Field([64, 128, 256, 512], min_length=1, max_length=30)  # widening, then mirrored
    kernel: int = Field(7, ge=3, le=1023)
    timesteps: int = Field(1000, ge=1, le=100_000)
    train: TrainConfig = TrainConfig(steps=2000, batch=50, learning_rate=1e-3, schedule="cosine", workers=0)

    _odd = field_validator("kernel")(AutoencoderConfig._odd.__func__)  # type: ignore[attr-defined]


class WeightsConfig(Config):
    """The `weights:` section of an experiment."""

    network: NetworkConfig = NetworkConfig()
    train: TrainConfig = TrainConfig(steps=1000, batch=64, learning_rate=1e-2, schedule="cosine")
    parameters: list[Annotated[str, Field(min_length=1)]] = Field(
        ["norm"], min_length=1
    )  # prefixes of the varied parameters' names
    pool: PoolConfig = PoolConfig()
    k: list[int] = Field([10, 50, 200, 300], min_length=1)
    subsets: list[Literal["first", "strided", "random"]] = Field(["strided"], min_length=1)
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    generate: int = Field(200, ge=1, le=1_000_000)  # networks to generate
    sampling_steps: int = Field(1000, ge=1)  # of the diffusion's timesteps, evenly spaced
    controls: list[Annotated[Control, part(CONTROLS)]] = [Noise(), Gaussian(), Average()]
    shard: int = unkeyed(256, ge=1)  # networks in one artifact of predictions: what a lost machine costs
    pool_size: int | None = Field(None, ge=1, le=1_000_000)  # checkpoints to collect; None: the largest k
