"""A multilayer perceptron."""

import itertools
from collections.abc import Sequence

from torch import nn


def build_mlp(widths: Sequence[int]) -> nn.Sequential:
    """Returns linear layers from `widths[0]` to `widths[-1]` with ReLU in between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
