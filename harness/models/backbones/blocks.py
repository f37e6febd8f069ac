"""The table of a backbone's blocks, from its configuration: where each is, what it gives out, what it costs to reach.

No torch: a plan counts multiply-accumulates of convolutions, attention and linear layers from the shapes alone.
Blocks are numbered from 1 over input blocks, the middle block and output blocks, as in guided-diffusion (ADM): a
down-sampler is a block of its own, an up-sampler belongs to its level's last block.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

UNET, PROMPTED, TRANSFORMER = "UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"
PROMPT_TOKENS = 77  # of CLIP's text encoder, padding included
TIMESTEP_CHANNELS = 256  # of a DiT's sinusoidal embedding
KINDS = {  # of down and up blocks that can be numbered
    UNET: (
        ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    PROMPTED: (("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")),
}


class Block(NamedTuple):
    """One place where features are read."""

    number: int  # from 1
    name: str  # the module whose output it is
    channels: int
    size: int  # height and width of the feature map, in pixels, latent pixels or tokens
    cost: float = 0.0  # multiply-accumulates of one image's pass up to and including this block
    share: float = 1.0  # of those of the whole network


class _Step(NamedTuple):
    """What runs between two blocks, ending at the second."""

    name: str
    channels: int
    size: int
    cost: float


def blocks(network: Mapping[str, Any]) -> list[Block]:
    """Numbers the blocks of a diffusers network from its config.json, which has been checked."""
    steps, rest = _steps(network)
    total = sum(step.cost for step in steps) + rest
    table, reached = [], 0.0
    for number, step in enumerate(steps, start=1):
        reached += step.cost
        table.append(Block(number, step.name, step.channels, step.size, reached, reached / total))
    return table


def multiplications(passed: Sequence[Block]) -> float:
    """Returns the multiply-accumulates of one image's pass that ends at the last of these blocks."""
    return passed[-1].cost


def middle(table: list[Block]) -> Block:
    """Returns the middle block of a U-Net, or the block at half the depth of a transformer."""
    return next((block for block in table if block.name == "mid_block"), table[(len(table) - 1) // 2])


def _steps(network: Mapping[str, Any]) -> tuple[list[_Step], float]:
    """Returns what runs up to each block, and the cost of what follows the last."""
    return _transformer(network) if network.get("_class_name") == TRANSFORMER else _unet(network)


def _transformer(network: Mapping[str, Any]) -> tuple[list[_Step], float]:
    """As `_steps`, of a DiT (Peebles and Xie 2022)."""
    width = network["num_attention_heads"] * network["attention_head_dim"]
    patch, size = network["patch_size"], network["sample_size"] // network["patch_size"]
    tokens, channels = size**2, network["in_channels"]
    condition = width * (TIMESTEP_CHANNELS + width)
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    one = attention + 8 * tokens * width**2 + 6 * width**2 + condition
    embed = tokens * patch**2 * channels * width
    steps = [
        _Step(f"transformer_blocks.{number}", width, size, one + (embed if number == 0 else 0))
        for number in range(network["num_layers"])
    ]
    out = network.get("out_channels") or channels
    return steps, condition + 2 * width**2 + tokens * width * patch**2 * out


class _Costs:
    """Multiply-accumulates of a U-Net's layers, for one image."""

    def __init__(self, network: Mapping[str, Any]) -> None:
        first = network["block_out_channels"][0]
        self.prompted = network.get("_class_name") == PROMPTED
        self._embedding = network.get("time_embedding_dim") or 4 * first
        self._scale_shift = network.get("resnet_time_scale_shift", "default") == "scale_shift"
        self._layers = network.get("transformer_layers_per_block", 1) if self.prompted else 1
        self._prompt = network.get("cross_attention_dim", 1280)
        sines = 2 * first if network.get("time_embedding_type") == "fourier" else first
        self.timestep = self._embedding * (sines + self._embedding)

    def residual(self, before: int, after: int, size: int) -> float:
        """Two 3x3 convolutions, the timestep's projection and, where the width changes, a 1x1 convolution."""
        shortcut = before * after if before != after else 0
        projection = self._embedding * after * (2 if self._scale_shift else 1)
        return (9 * before * after + 9 * after**2 + shortcut) * size**2 + projection

    def attention(self, width: int, size: int) -> float:
        """Self-attention over the map; with a prompt, whole transformer blocks (gated feed-forward of ratio 4)."""
        tokens = size**2
        own = 4 * tokens * width**2 + 2 * tokens**2 * width
        if not self.prompted:
            return own
        cross = 2 * tokens * width**2 + 2 * PROMPT_TOKENS * width * (self._prompt + tokens)
        return self._layers * (own + cross + 12 * tokens * width**2) + 2 * tokens * width**2

    def middle(self, width: int, size: int, attention: bool) -> float:
        """Two residual blocks with attention between them."""
        return 2 * self.residual(width, width, size) + (self.attention(width, size) if attention else 0)

    def resample(self, width: int, size: int, residual: bool) -> float:
        """A sampler that gives out a map of `size`: a residual block or one 3x3 convolution."""
        return self.residual(width, width, size) if residual else 9 * width**2 * size**2


def _unet(network: Mapping[str, Any]) -> tuple[list[_Step], float]:
    """As `_steps`, of a U-Net."""
    costs, size = _Costs(network), network["sample_size"]
    widths, layers = list(network["block_out_channels"]), network.get("layers_per_block", 2)
    first, last = widths[0], len(widths) - 1
    steps = [
        _Step("conv_in", first, size, 9 * network["in_channels"] * first * size**2 + costs.timestep),
    ]
    skips, width = [first], first
    for level, (out, kind) in enumerate(zip(widths, network["down_block_types"], strict=True)):
        part = "attentions" if "Attn" in kind else "resnets"
        for layer in range(layers):
            cost = costs.residual(width, out, size) + ("Attn" in kind) * costs.attention(out, size)
            steps.append(_Step(f"down_blocks.{level}.{part}.{layer}", out, size, cost))
            skips.append(out)
            width = out
        if level < last:
            size //= 2
            cost = costs.resample(out, size, _residual(kind, network.get("downsample_type")))
            steps.append(_Step(f"down_blocks.{level}.downsamplers.0", out, size, cost))
            skips.append(out)
    attends = costs.prompted or network.get("add_attention", True)
    steps.append(_Step("mid_block", width, size, costs.middle(width, size, attends)))
    for level, (out, kind) in enumerate(zip(reversed(widths), network["up_block_types"], strict=True)):
        part = "attentions" if "Attn" in kind else "resnets"
        for layer in range(layers + 1):
            cost = costs.residual(width + skips.pop(), out, size)
            cost += ("Attn" in kind) * costs.attention(out, size)
            name, width = f"up_blocks.{level}.{part}.{layer}", out
            if layer == layers and level < last:
                size, name = size * 2, f"up_blocks.{level}.upsamplers.0"
                cost += costs.resample(out, size, _residual(kind, network.get("upsample_type")))
            steps.append(_Step(name, out, size, cost))
    return steps, 9 * first * network.get("out_channels", 3) * size**2


def _residual(kind: str, sampler: str | None) -> bool:
    """Says whether a level's sampler is a residual block: some kinds leave the choice to the configuration."""
    return kind.startswith("Resnet") or (kind.startswith("Attn") and sampler == "resnet")
