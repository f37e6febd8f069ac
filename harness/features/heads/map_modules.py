"""Classifiers on feature maps: convolutions, and attention over the pixels of one or several maps.

Legend: B batch, C channels, H and W map height and width, T tokens (pixels), E token width. Feature vectors [B, D]
are treated as maps of one pixel.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, scaled_dot_product_attention

MLP_RATIO = 4
SMALL = 0.02  # standard deviation of embeddings before training


class AsMap(nn.Module):
    """Turns features into a map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns [B, C, H, W]; [B, D] becomes [B, D, 1, 1]."""
        return x if x.ndim == 4 else x[:, :, None, None]


def build_cnn(channels: int, widths: Sequence[int], classes: int) -> nn.Sequential:
    """Returns 3x3 convolutions with ReLU, the average over the map, a linear layer."""
    layers: list[nn.Module] = [AsMap()]
    for before, after in zip([channels, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


class Block(nn.Module):
    """A pre-norm transformer block (Dosovitskiy et al. 2021); queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
        """Returns tokens in the same shape."""
        heads = self.qkv(self.norm_attention(x_BTE)).unflatten(2, (3, self.heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, T, E / heads]
        attended_BTE = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BTE = x_BTE + self.out(attended_BTE)
        return x_BTE + self.mlp(self.norm_mlp(x_BTE))


class OnTokens(nn.Module):
    """Prepends a CLS token, initially zero; then transformer blocks and a linear layer on that token."""

    def __init__(self, width: int, blocks: int, heads: int, classes: int) -> None:
        super().__init__()
        self.cls_E = nn.Parameter(torch.zeros(width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.classify = nn.Linear(width, classes)

    def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, classes]."""
        cls_B1E = self.cls_E.expand(len(x_BTE), 1, -1)
        return self.classify(self.blocks(torch.cat([cls_B1E, x_BTE], 1))[:, 0])


class Positions(nn.Module):
    """Adds a learnt embedding of each token's position."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding_TE = nn.Parameter(SMALL * torch.randn(tokens, width))

    def forward(self, x_BTE: torch.Tensor) -> torch.Tensor:
        """Returns tokens in the same shape."""
        return x_BTE + self.embedding_TE


class AttentionClassifier(nn.Module):
    """Attention over the pixels of one feature map (arXiv 2307.08702, and its released code)."""

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        tokens: int,
        released: bool,
        positions: bool,
    ) -> None:
        """`shape` is (C, H, W) or (D,); a map larger than `tokens` x `tokens` is pooled to it."""
        super().__init__()
        channels, *given = shape
        self.size = (min(tokens, given[0]), min(tokens, given[1])) if given else (1, 1)
        self.as_map = AsMap()
        self.norm = nn.LayerNorm([channels, *self.size]) if released else nn.Identity()
        same = channels == width and not released
        self.project = nn.Identity() if same else nn.Linear(channels, width)
        self.place = Positions(math.prod(self.size), width) if positions else nn.Identity()
        self.on_tokens = OnTokens(width, blocks, heads, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, classes] of maps [B, C, H, W]."""
        x_BCHW = self.norm(adaptive_avg_pool2d(self.as_map(x), self.size))
        return self.on_tokens(self.place(self.project(x_BCHW.flatten(2).transpose(1, 2))))


class PartsClassifier(nn.Module):
    """DifFormer (arXiv 2311.17921): attention over the pixels of several maps of the same size.

    The maps are concatenated along the channels. Each has its own projection, and a learnt embedding tells tokens
    which map they come from.
    """

    def __init__(
        self,
        parts: Sequence[int],
        side: Sequence[int],
        classes: int,
        *,
        width: int,
        blocks: int,
        heads: int,
        positions: bool,
    ) -> None:
        """`parts` are the channels of each map, `side` its height and width, empty for feature vectors."""
        super().__init__()
        self.parts = list(parts)
        self.as_map = AsMap()
        self.project = nn.ModuleList(nn.Linear(channels, width) for channels in parts)
        self.embedding_PE = nn.Parameter(SMALL * torch.randn(len(parts), width))
        self.place = Positions(math.prod(side), width) if positions else nn.Identity()
        self.on_tokens = OnTokens(width, blocks, heads, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, classes] of maps [B, sum of parts, H, W]."""
        maps = self.as_map(x).flatten(2).transpose(1, 2).split(self.parts, dim=2)
        places = zip(maps, self.project, self.embedding_PE, strict=True)
        tokens = [self.place(project(one) + mark_E) for one, project, mark_E in places]
        return self.on_tokens(torch.cat(tokens, 1))
