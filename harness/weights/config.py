"""What study 2 sweeps."""

import json
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, field_validator, model_validator

from harness.core.checks import duplicates
from harness.core.config import Config, part, unkeyed
from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.models.classifiers.networks import NETWORKS, ConvNet, Network
from harness.models.generators.edition import AUTOENCODERS, edition_of
from harness.training.config import Augment, TrainConfig, check_workers
from harness.weights.controls import (
    CONTROLS,
    Average,
    Control,
    DecodedGaussian,
    FineTuned,
    Gaussian,
    Noise,
    OtherSeed,
)
from harness.weights.presets import with_preset

NETWORKS_AT_ONCE = 16  # evaluated in one batch; a shard of predictions holds whole batches

Width = Annotated[int, Field(ge=1, le=65_536)]  # channels of a layer
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(le=1_000_000)]  # networks: a plan names every shard of them


class Training(TrainConfig):
    """How an original network is trained: by steps, or by epochs."""

    epochs: float | None = Field(None, gt=0)  # passes over the labelled images, instead of steps
    decay_epochs: int | None = Field(None, ge=1)  # schedule step: the same for decay_every

    @model_validator(mode="before")
    @classmethod
    def _decays_by_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("decay_epochs") and not values.get("decay_every"):
            return {**values, "decay_every": 1}  # until `on` knows how many steps an epoch has
        return values

    def on(self, examples: int) -> TrainConfig:
        """Returns the same settings in steps, for `examples` training images."""
        an_epoch = ceil(examples / self.batch)
        values = self.model_dump(exclude={"epochs", "decay_epochs"})
        if self.epochs is not None:
            values["steps"] = max(1, round(self.epochs * an_epoch))
        if self.decay_epochs is not None:
            values["decay_every"] = self.decay_epochs * an_epoch
        return TrainConfig(**values)


class CheckpointsConfig(Config):
    """How checkpoints are collected: by training only the varied parameters, or from existing files."""

    every: int = Field(1, ge=1, le=1_000_000)  # steps, or epochs, from one checkpoint to the next
    unit: Literal["step", "epoch"] = "step"
    learning_rate: float = Field(0.03, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(0.0, ge=0, lt=1)  # SGD only
    weight_decay: float = Field(0.0, ge=0)
    batch: int = Field(64, ge=1)
    trajectories: int = Field(1, ge=1, le=1000)  # training runs to collect from, each with its own seed
    held_out: int = Field(
        20, ge=0, le=100_000
    )  # further checkpoints, evenly spread, that nothing learns from
    # checkpoints apart from those; None: the largest k, or all files of a folder
    size: int | None = Field(None, ge=1, le=1_000_000)
    path: str | None = None  # a folder of checkpoints instead: *.safetensors, *.pt, *.pth, *.bin, by name
    base: str | None = None  # with path: a file with all parameters; None: the last checkpoint
    workers: int | list[int] = unkeyed(0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_workers(self.workers, self.batch)
        return self


class AutoencoderConfig(Config):
    """The autoencoder of parameter vectors."""

    edition: str = "2024-12"  # of the paper: determines the layers
    channels: list[Width] = Field([64, 128, 256, 256, 32], min_length=1, max_length=30)
    # edition 2024-02 only; None: the encoder's, reversed
    decoder_channels: list[Width] | None = Field(None, min_length=1, max_length=30)
    kernel: int = Field(7, ge=3, le=1023)  # in edition 2024-02 also the stride
    latent: int | None = Field(
        128, ge=1, le=1_000_000
    )  # None in edition 2024-02, where it follows from the strides
    norm: Literal["group", "batch", "none"] = "group"
    normalise: Literal["tensor", "none"] = "tensor"  # each tensor to mean 0 and deviation 1, or unchanged
    noise: Literal["added", "mixed"] = "added"  # x + f e, or (1 - f) x + f e
    parameter_noise: float = Field(0.001, ge=0)
    latent_noise: float = Field(0.1, ge=0)
    full_batch: bool = False  # a batch is all k originals, whatever train.batch says
    train: TrainConfig = TrainConfig(steps=2000, batch=50, learning_rate=1e-3, schedule="cosine", workers=0)

    @field_validator("edition")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            AUTOENCODERS.where(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd")
        return kernel

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        settings = self.keyed()
        edition_of(settings).check(settings)
        if self.noise == "mixed" and max(self.parameter_noise, self.latent_noise) > 1:
            raise ValueError("noise = mixed: parameter_noise and latent_noise are fractions, at most 1")
        _check_norm(self.norm, self.train)
        return self

    def keyed(self) -> dict[str, Any]:
        """Returns the values with the version of the edition's code."""
        return {**super().keyed(), "edition_version": AUTOENCODERS.load(self.edition).version}

    def numbers(self, length: int) -> int:
        """Returns the size of the latent of a vector of `length` numbers; 0 if the strides leave nothing."""
        settings = self.keyed()
        return edition_of(settings).latent(settings, length)


def _check_norm(norm: str, train: TrainConfig) -> None:
    """Raises `ValueError` where the number of workers, which must not affect results, would change the statistics."""
    if norm == "batch" and train.workers not in (0, 1, [1, 1]):
        raise ValueError(
            f"norm = batch: each worker would have statistics of its own; set train.workers to 0 or 1, not "
            f"{train.workers}, or norm: group"
        )


class DiffusionConfig(Config):
    """The diffusion model of latents."""

    channels: list[Width] = Field([64, 128, 256, 512], min_length=1, max_length=30)  # widening, then mirrored
    kernel: int = Field(7, ge=3, le=1023)
    norm: Literal["group", "batch"] = "group"
    timesteps: int = Field(1000, ge=1, le=100_000)
    standardise: bool = True  # latents to mean 0 and deviation 1 before training
    clip: bool = False  # the estimate of the clean latent to [-1, 1] while sampling
    full_batch: bool = False  # a batch is all k latents, whatever train.batch says
    train: TrainConfig = TrainConfig(steps=2000, batch=50, learning_rate=1e-3, schedule="cosine", workers=0)

    _odd = field_validator("kernel")(AutoencoderConfig._odd.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_norm(self.norm, self.train)
        return self


class WeightsConfig(Config):
    """The `weights:` section of an experiment."""

    preset: Literal["2024-02", "2024-12"] | None = (
        None  # values of that edition of the paper for everything that is left out
    )
    network: Annotated[Network, part(NETWORKS)] = ConvNet()
    train: Training = Training(steps=1000, batch=64, learning_rate=1e-2, schedule="cosine")
    augment: Augment | None = None  # crops and horizontal flips, in training and collection
    # names, prefixes of names, patterns with *, the paper's names (bn-16-18), or all
    parameters: list[Pattern] = Field(["norm"], min_length=1)
    buffers: Literal["base", "collected"] = (
        "base"  # running statistics: of the base network, or in the vector
    )
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    k: list[Count] = Field([10, 50, 200, 300], min_length=1)
    subsets: list[Literal["first", "strided", "random"]] = Field(["strided"], min_length=1)
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    # how much validation accuracy the median reconstructed network may lose before generation is abandoned
    gate: float | None = Field(0.1, ge=0, le=1)
    diffusion: DiffusionConfig = DiffusionConfig()
    generate: int = Field(200, ge=1, le=1_000_000)  # networks to generate
    generators: int = Field(
        1, ge=1, le=1000
    )  # runs of autoencoder and diffusion model, each with its own seed
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int = Field(1000, ge=1)  # of the diffusion's timesteps, evenly spaced
    controls: list[Annotated[Control, part(CONTROLS)]] = [
        Noise(),
        Gaussian(),
        Average(),
        FineTuned(),
        OtherSeed(),
        DecodedGaussian(),
    ]
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}  # path in this section -> its values
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(
        None, min_length=1
    )  # None: the experiment's
    also: list[DataConfig] = []  # further data sets, each with networks of its own
    memory_gb: float = unkeyed(1.0, gt=0)  # of activations while networks are evaluated
    shard: int = unkeyed(256, ge=1)  # networks in one artifact of predictions: what losing a machine costs

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("vary", mode="before")
    @classmethod
    def _paths(cls, vary: Any) -> Any:
        if not isinstance(vary, dict):
            raise ValueError("expected a mapping, such as {autoencoder.latent_noise: [0, 0.1]}")
        for path, values in vary.items():
            if "=" in path or not all(path.strip().split(".")):
                raise ValueError(f"{path!r} is not a path to a value, such as autoencoder.latent_noise")
            if isinstance(values, dict) and values:
                raise ValueError(f"a path is one key: {path}.{next(iter(values))}: [VALUE, ...]")
            if isinstance(values, list):
                for value in duplicates(values):
                    raise ValueError(f"{path}: {json.dumps(value)} is given twice")
        return vary

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints there are to learn from."""
        return self.checkpoints.size or max(self.k)

    @property
    def given(self) -> dict[str, Any]:
        """The values as given, without those of the preset: what `vary` starts from."""
        return self._given

    @model_validator(mode="wrap")
    @classmethod
    def _of_the_edition(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(with_preset(values))
        if isinstance(values, dict):
            made._given = values
        return made
