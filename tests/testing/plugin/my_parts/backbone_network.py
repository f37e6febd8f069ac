"""The network of the family beside this."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class Convolutions(ModelMixin, ConfigMixin):
    """Convolutions with a number for the timestep."""

    @register_to_config
    def __init__(self, sample_size=16, in_channels=3, width=4, layers=2):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers))
        self.last = nn.Conv2d(width, in_channels, 3, padding=1)

    def forward(self, x_BCHW, time_B):
        """Returns the predicted noise."""
        x_BCHW = self.first(x_BCHW)
        x_BCHW = x_BCHW + self.time(time_B[:, None] / 1000)[:, :, None, None]
        for layer in self.body:
            x_BCHW = torch.relu(layer(x_BCHW))
        return self.last(x_BCHW)
