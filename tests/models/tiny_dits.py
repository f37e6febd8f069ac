"""The DiT of Peebles and Xie 2022, written from the paper with the original's module names, at its smallest."""

import math

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tiny_models import PIXELS, tiny_vae
from torch import nn

from harness.models.backbones.dit_network import OriginalDiTTransformer2DModel

CLASSES, DEPTH, WIDTH, HEADS = 5, 3, 16, 2
LATENTS, SIDE = 4, PIXELS // 2  # of the maps


def waves(positions_N, width):
    """Returns sines, then cosines, of positions at `width` / 2 frequencies from 1 to above 1 / 10,000."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2).to(positions_N) * 2 / width)
    angles = positions_N[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class Embed(nn.Module):
    """A patch by a convolution."""

    def __init__(self, channels, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)


class Times(nn.Module):
    """The timestep: 128 cosines, 128 sines, two layers."""

    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, times_B):
        sines, cosines = waves(times_B.float(), 256).chunk(2, 1)
        return self.mlp(torch.cat([cosines, sines], 1))


class Labels(nn.Module):
    """The class, or the null class, the last."""

    def __init__(self, classes, width):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)


class Attention(nn.Module):
    """Self-attention, queries, keys and values by one layer."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
        )
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), -1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class Layers(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x), approximate="tanh"))


def normed(x, shift, scale):
    return nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """A transformer block with adaLN-Zero."""

    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Layers(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, told):
        first, second = self.adaLN_modulation(told).chunk(2, 1)
        for part, three in ((self.attn, first), (self.mlp, second)):
            shift, scale, gate = three.chunk(3, 1)
            x = x + gate[:, None] * part(normed(x, shift, scale))
        return x


class Final(nn.Module):
    """Tokens to patches."""

    def __init__(self, width, numbers):
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, numbers)

    def forward(self, x, told):
        return self.linear(normed(x, *self.adaLN_modulation(told).chunk(2, 1)))


class Reference(nn.Module):
    """The whole network; `out` channels of its predictions."""

    def __init__(self, width=WIDTH, depth=DEPTH, heads=HEADS, patch=2, out=2 * LATENTS, side=SIDE):
        super().__init__()
        self.patch, self.out, self.side = patch, out, side // patch
        self.x_embedder, self.t_embedder = Embed(LATENTS, width, patch), Times(width)
        self.y_embedder = Labels(CLASSES, width)
        places = torch.arange(self.side)
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        halves = [waves(one.flatten().double(), width // 2) for one in (columns, rows)]
        self.pos_embed = nn.Parameter(torch.cat(halves, 1).float()[None], requires_grad=False)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.final_layer = Final(width, patch**2 * out)

    def forward(self, x, times_B, labels_B):
        """Returns the output, and what every block gave out."""
        x = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        told = self.t_embedder(times_B) + self.y_embedder.embedding_table(labels_B)
        seen = []
        for block in self.blocks:
            x = block(x, told)
            seen.append(x)
        patches = self.final_layer(x, told).unflatten(1, (self.side, self.side))
        patches = patches.unflatten(3, (self.patch, self.patch, self.out))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3), seen


def random_reference(seed=0, **settings):
    """Returns a network with random weights."""
    torch.manual_seed(seed)
    network = Reference(**settings).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if name != "pos_embed":
            value.copy_(torch.randn(value.shape) * 0.2)
    return network


def save_original(folder, seed=0, objective="ddpm"):
    """Writes a folder with the network of original weights, its VAE and scheduler; returns the folder."""
    torch.manual_seed(seed)
    transformer = OriginalDiTTransformer2DModel(
        objective=objective,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=LATENTS,
        out_channels=2 * LATENTS,
        num_layers=DEPTH,
        sample_size=SIDE,
        num_embeds_ada_norm=CLASSES,
    )
    transformer.save_pretrained(folder / "transformer")
    tiny_vae(seed).save_pretrained(folder / "vae")
    kind = DDIMScheduler if objective == "ddpm" else FlowMatchEulerDiscreteScheduler
    kind(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
    return folder
