"""A small convolutional classifier, the kind whose weights study 2 writes."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn


class ConvNet(nn.Module):
    """Convolution, group norm, ReLU; every stage after the first halves the map; mean; linear.

    Group norm keeps no running statistics, so a network is its parameters, and training does not depend on how a
    batch is spread over workers.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], classes: int, groups: int = 4) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.depth = len(channels)
        for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            stride = 1 if number == 1 else 2
            self.add_module(
                f"conv{number}", nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            )
            self.add_module(f"norm{number}", nn.GroupNorm(groups, after))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Returns logits [N, classes]."""
        for number in range(1, self.depth + 1):
            x_NCHW = self.get_submodule(f"conv{number}")(x_NCHW)
            x_NCHW = self.get_submodule(f"norm{number}")(x_NCHW).relu()
        return self.fc(x_NCHW.mean((2, 3)))
