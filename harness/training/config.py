"""The options of training and of augmentation."""

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harness.core.config import Config, unkeyed
from harness.core.stages import Code

NOISE = Code("noise", 1)  # random numbers by address: `harness.training.noise`, `augment`
TRAINING = Code("training", 1, uses=(NOISE,))  # the loop and the losses of its tasks

Rate = Annotated[float, Field(gt=0)]


class TrainConfig(Config):
    """A `train:` section of an experiment."""

    steps: int = Field(1000, ge=0)
    batch: int = Field(64, ge=1)  # total over all workers
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    rates: dict[str, Rate] = {}  # learning rates by prefix of parameter names; the longest match wins
    schedule: Literal["constant", "cosine", "step"] = "constant"  # cosine ends at zero
    decay_every: int | None = Field(
        None, ge=1
    )  # schedule step: number of steps after which the rate is multiplied by gamma
    gamma: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0)  # steps over which the learning rate rises from zero
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)  # SGD only
    clip: float | None = Field(None, gt=0)  # largest gradient norm
    ema: float | None = Field(
        None, gt=0, lt=1
    )  # decay of the weights' moving average, which then replaces the weights
    precision: Literal["auto", "float32"] = "auto"  # auto: bfloat16 autocast on GPUs that support it
    # examples that are shuffled together, neighbours in storage; None: all. For data larger than a machine's disk
    shuffle_window: int | None = Field(None, ge=1)
    workers: int | list[int] = unkeyed(1)  # Ray Train workers, or [min, max]; 0: in the calling process
    checkpoint_every: int | None = unkeyed(None, ge=1)  # steps; None: ten checkpoints in all

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_workers(self.workers, self.batch)
        if self.warmup > self.steps > 0:
            raise ValueError(f"warmup = {self.warmup} is longer than steps = {self.steps}")
        if (self.schedule == "step") != (self.decay_every is not None):
            raise ValueError(
                f"schedule = {self.schedule}, decay_every = {self.decay_every}: decay_every must be "
                "given for schedule step, and only for it"
            )
        return self

    def storage_order(self, places_M: np.ndarray) -> np.ndarray:
        """Returns the examples' places in storage, in the order in which the loop numbers them."""
        return places_M if self.shuffle_window is None else np.sort(places_M)

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every or max(1, -(-self.steps // 10))


class Augment(Config):
    """Random resized crops and horizontal flips, with which both papers train their classifiers."""

    crop: float = Field(0.8, gt=0, le=1)  # smallest share of the area that a crop keeps; 1: no cropping
    flip: bool = True  # flip half of the images horizontally


def check_workers(workers: int | list[int], batch: int) -> None:
    """Raises `ValueError` unless `workers` is a valid number or range, at most one worker per sample of a batch."""
    if isinstance(workers, int):
        if workers < 0:
            raise ValueError(
                f"workers = {workers}: expected the number of workers, 0 for the calling process alone, "
                "or [min, max]"
            )
    elif len(workers) != 2 or not 1 <= workers[0] <= workers[1]:
        raise ValueError(f"workers = {workers}: expected [min, max], with 1 <= min <= max")
    most = workers if isinstance(workers, int) else workers[1]
    if most > batch:
        raise ValueError(
            f"workers = {workers}: more workers than the {batch} samples of a batch; give a larger batch"
        )
