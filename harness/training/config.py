"""How something is trained."""

from typing import Literal

from pydantic import Field

from harness.core.config import Config, unkeyed


class TrainConfig(Config):
    """A `train:` section of an experiment."""

    steps: int = Field(1000, ge=0)
    batch: int = Field(64, ge=1)  # over all workers together
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"  # cosine ends at zero
    warmup: int = Field(0, ge=0)  # steps over which the learning rate rises from zero
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.0, ge=0, lt=1)  # SGD only
    clip: float | None = Field(None, gt=0)  # largest norm of the gradient
    ema: float | None = Field(
        None, gt=0, lt=1
    )  # decay of the moving average of the weights, which is then used
    precision: Literal["auto", "float32"] = "auto"  # auto: bfloat16 autocast on GPUs that have it
    workers: int | list[int] = unkeyed(1)  # Ray Train workers, or [least, most]; 0: in the calling process
    checkpoint_every: int | None = unkeyed(None, ge=1)  # steps; None: ten times in all

    @property
    def checkpoint_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.checkpoint_every or max(1, -(-self.steps // 10))
