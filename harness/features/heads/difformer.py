"""DifFormer: attention over the tokens of several blocks and timesteps (arXiv 2311.17921)."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from harness.core.errors import UserError
from harness.features.heads.attention import Transformer

if TYPE_CHECKING:
    from torch import nn


class DifFormer(Transformer):
    """Projects each part of the features to `width`, adds a learnt embedding of the part, attends over all tokens.

    The parts are feature maps of several (block, timestep), concatenated along the channels; `features.combined`
    fills in `parts`. Otherwise the features are one part.
    """

    name: Literal["difformer"] = "difformer"
    width: int = Field(256, ge=1, le=16_384)
    parts: list[Annotated[int, Field(ge=1)]] = []  # channels of each part

    def on_parts(self, channels: list[int]) -> Self:
        """Returns the head with these parts."""
        return self.model_copy(update={"parts": channels})

    @property
    def multiplications(self) -> float:
        """An estimate, for 4x4 maps."""
        return 16 * max(1, len(self.parts)) * self.block_multiplications

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the untrained module; raises `UserError` if the parts do not add up to the channels."""
        from harness.features.heads.map_modules import PartsClassifier

        parts = self.parts or [shape[0]]
        if sum(parts) != shape[0]:
            raise UserError(
                f"difformer: parts = {parts} have {sum(parts)} channels in all, but the features have {shape[0]}; "
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
