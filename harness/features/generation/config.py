"""The configuration of the study of generation."""

from typing import Annotated, Literal

from pydantic import Field

from harness.core.config import part, unkeyed
from harness.features.config import Regularised
from harness.models.encoders.encoder import ENCODERS, Encoder, Pixels


class GenerationConfig(Regularised):
    """The `generation:` section of an experiment."""

    sampler: Literal["ddpm", "ddim"] = "ddim"
    steps: int = Field(50, ge=1, le=100_000)  # sampler steps: passes through the backbone per sample
    samples: int | None = Field(None, ge=2, le=10_000_000)  # None: as many as test images
    real: int | None = Field(None, ge=2)  # training images that samples are compared with; None: all
    encoders: list[Annotated[Encoder, part(ENCODERS)]] = Field([Pixels()], min_length=1)
    batch: int = unkeyed(256, ge=1)  # samples per forward pass
    shard: int = unkeyed(2048, ge=1)  # samples per artifact, drawn by one task
