"""Attention over the tokens of a frozen feature map."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from harness.features.heads.by_gradients import ByGradients
from harness.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

TOKENS = {"paper": 8, "released": 16}  # the side of the pooled map


class Transformer(ByGradients):
    """Base of the heads made of transformer blocks, with their common options and training."""

    blocks: int = Field(2, ge=1, le=64)  # the papers have 1 to 5
    width: int = Field(ge=1, le=16_384)
    attention_heads: int = Field(8, ge=1, le=1024)
    positions: bool = (
        False  # a learnt embedding of each token's position in its map; the published heads have none
    )
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
        if self.width % self.attention_heads:
            raise ValueError(
                f"width = {self.width}: not divisible by attention_heads = {self.attention_heads}"
            )
        return self

    @property
    def block_multiplications(self) -> float:
        """Multiply-accumulates per token of all blocks: projections (4 width²) and MLP (8 width²)."""
        return self.blocks * 12 * self.width**2


class Attention(Transformer):
    """Transformer blocks on a feature map's pixels and a CLS token, then a linear layer on that token.

    Edition "paper" (arXiv 2307.08702): pooled to 8x8, a linear projection unless there are `width` channels.
    Edition "released" (the code): pooled to 16x16, a LayerNorm over the whole map, a 1x1 convolution to `width`.
    Both: no position embedding, pre-norm blocks, queries, keys and values without bias.
    """

    name: Literal["attention"] = "attention"
    edition: Literal["paper", "released"] = "paper"
    width: int = Field(1024, ge=1, le=16_384)
    tokens: int | None = Field(None, ge=1, le=64)  # pooled to tokens x tokens; None: the edition's

    @property
    def multiplications(self) -> float:
        """An estimate, for a map as large as the pool."""
        return (self.tokens or TOKENS[self.edition]) ** 2 * self.block_multiplications

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns the untrained module; a map smaller than the pool keeps its size."""
        from harness.features.heads.map_modules import AttentionClassifier

        return AttentionClassifier(
            shape,
            classes,
            width=self.width,
            blocks=self.blocks,
            heads=self.attention_heads,
            tokens=self.tokens or TOKENS[self.edition],
            released=self.edition == "released",
            positions=self.positions,
        )
