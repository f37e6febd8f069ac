"""The network of the family beside this: an MLP-Mixer (Tolstikhin et al. 2021) that denoises patches of images."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn


class MixerModel(ModelMixin, ConfigMixin):
    """Tells a first token the time and the class; the tokens of patches follow it, row by row."""

    @register_to_config
    def __init__(self, image_size=8, colours=1, patch=2, width=16, depth=3, classes=10):
        super().__init__()
        tokens = 1 + (image_size // patch) ** 2
        self.patches = nn.Conv2d(colours, width, patch, patch)
        self.time = nn.Linear(width, width)
        self.labels = nn.Embedding(classes + 1, width)  # the last is the null class
        self.layers = nn.ModuleList(Layer(tokens, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.ConvTranspose2d(width, colours, patch, patch)

    def forward(self, x_BCHW, time_B, label_B):
        """Returns the predicted v [B, C, H, W] of noised images."""
        map_BCHW = self.patches(x_BCHW)
        wave_BC = get_timestep_embedding(time_B, self.config.width).to(x_BCHW.dtype)
        told_BC = self.time(wave_BC) + self.labels(label_B)
        tokens_BNC = torch.cat([told_BC[:, None], map_BCHW.flatten(2).transpose(1, 2)], 1)
        for layer in self.layers:
            tokens_BNC = layer(tokens_BNC)
        image_BCN = self.norm(tokens_BNC)[:, 1:].transpose(1, 2)
        return self.pixels(image_BCN.reshape(map_BCHW.shape))


class Layer(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens, width):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens_BNC):
        """Returns tokens of the same shape."""
        mixed_BNC = tokens_BNC + self.across(self.norms[0](tokens_BNC).transpose(1, 2)).transpose(1, 2)
        return mixed_BNC + self.within(self.norms[1](mixed_BNC))
