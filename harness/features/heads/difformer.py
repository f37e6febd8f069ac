"""DifFormer: attention over the tokens of several blocks and timesteps (arXiv 2311.17921)."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.core.errors import UserError
from harness.features.heads.attention import block_multiplications, check_width
from harness.features.heads.by_gradients import ByGradients
from harness.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn


class DifFormer(ByGradients):
    """Each part of the features is projected to `width` and marked with a learnt embedding; one attention sees all.

    The parts, feature maps of several (block, timestep), follow each other along the channels: a study's
    `combined:` fills in `parts`. Without, the features are one part.
    """

    name: Literal["difformer"] = "difformer"
    blocks: int = Field(2, ge=1, le=64)
    width: int = Field(256, ge=1, le=16_384)
    attention_heads: int = Field(8, ge=1, le=1024)
    positions: bool = False  # a learnt embedding of each token's place in its map
    parts: list[Annotated[int, Field(ge=1)]] = []  # channels of each part
    train: TrainConfig = TrainConfig(
        steps=400,
        batch=128,
        learning_rate=3e-4,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=20,
        clip=1.0,
        workers=0,
    )

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        check_width(self.width, self.attention_heads)
        return self

    def on_parts(self, channels: list[int]) -> Self:
        """Returns the head with these parts."""
        return self.model_copy(update={"parts": channels})

    @property
    def multiplications(self) -> float:
        """A guess, for maps of 4x4."""
        return 16 * max(1, len(self.parts)) * self.blocks * block_multiplications(self.width)

    def network(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the network; raises `UserError` if the parts are not all of the channels."""
        from harness.models.map_classifiers import PartsClassifier

        parts = self.parts or [shape[0]]
        if sum(parts) != shape[0]:
            raise UserError(
                f"difformer: parts = {parts} are {sum(parts)} channels, the features have {shape[0]}; "
                "leave parts out"
            )
        return PartsClassifier(
            parts,
            shape[1:],
            classes,
            width=self.width,
            blocks=self.blocks,
            heads=self.attention_heads,
            positions=self.positions,
        )
