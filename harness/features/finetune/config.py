"""The configuration of fine-tuning."""

from typing import Annotated, Literal

from pydantic import Field

from harness.core.config import Config, part, unkeyed
from harness.features.config import Regularised
from harness.features.heads.head import HEADS, Head
from harness.features.heads.linear import Linear
from harness.models.backbones.backbone import BlockNames
from harness.models.noise_processes.levels import Timestep
from harness.training.config import Augment, TrainConfig

PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]  # of attention, as diffusers calls them


class Lora(Config):
    """Low-rank adapters that learn in place of the encoder's weights, into which they are merged afterwards."""

    rank: int = Field(8, ge=1, le=4096)
    alpha: int = Field(8, ge=1)  # adapters are scaled by alpha / rank
    # Ends of the paths of linear and convolutional layers; by default the projections of attention
    targets: list[str] = Field(PROJECTIONS, min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)  # of the adapters' inputs

    @property
    def display_name(self) -> str:
        """Its name in rows."""
        return f"lora rank {self.rank}"


class FinetuneConfig(Regularised):
    """The `finetune:` section of an experiment. Every block, timestep, pool and head is a separate training run."""

    blocks: BlockNames  # layers after the block are not changed
    timesteps: list[Timestep] = Field(min_length=1)
    pools: list[int] = Field([1], min_length=1)
    heads: list[Annotated[Head, part(HEADS)]] = Field([Linear()], min_length=1)  # trained by gradient descent
    tune: TrainConfig = TrainConfig(
        steps=2000, batch=128, optimizer="sgd", learning_rate=1e-3, rates={"head.": 1e-2}, schedule="cosine"
    )  # learning_rate is the encoder's
    lora: Lora | None = None  # None: all weights that the block depends on learn
    augment: Augment | None = Augment()  # of the training images
    draws: int = Field(1, ge=1, le=10_000)  # noise draws that features are averaged over in evaluation
    precision: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # of evaluation; auto: bfloat16 on GPUs that support it
    )
    batch: int = unkeyed(256, ge=1)  # images per forward pass in evaluation
    # activations are computed again for gradients instead of being kept: less memory, about a third more time
    gradient_checkpointing: bool = unkeyed(False)
