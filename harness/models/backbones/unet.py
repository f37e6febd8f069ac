"""The family of `UNet2DModel`: DDPM's U-Nets on pixels, converted ADM models, and those trained by a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.models.backbones.backbone import Backbone, BackbonePlan, Width
from harness.models.backbones.blocks import Block, Point, Step
from harness.models.backbones.family import check_numbers, parts_of_transformer, positive
from harness.models.backbones.labelled import LabelledFamily
from harness.models.noise_processes.process import NoiseProcess, process_of
from harness.models.noise_processes.variance_preserving import VariancePreserving

if TYPE_CHECKING:
    import torch

DOWN = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")  # supported block types
UP = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
MIDDLE = "mid_block"
HEAD = 8  # diffusers' default of attention_head_dim


class UNetFamily(LabelledFamily):
    """`UNet2DModel`, on pixels or on latents, without a condition or with a class label."""

    network = "diffusers:UNet2DModel"
    folder = "unet"
    needed = ("sample_size", "in_channels", "block_out_channels", "down_block_types", "up_block_types")
    autoencoders = ("vqvae", "vae")
    original = "harness.models.backbones.adm_weights:convert"

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses unknown block types, inputs other than the noised map, and times that are no plain steps."""
        check_unet(config, path, DOWN, UP, ("UNetMidBlock2D",))
        if config.get("class_embed_type") is not None:
            raise UserError(
                f"{path}: class_embed_type = {config['class_embed_type']!r}: only tables of labels are supported "
                "(num_class_embeds)"
            )
        classes = config.get("num_class_embeds")
        if classes is not None:
            check_numbers({"num_class_embeds": classes}, path)
        if config.get("center_input_sample"):
            raise UserError(
                f"{path}: center_input_sample = true: the network reads noised images in [0, 1], but noise is added "
                "to images in [-1, 1]"
            )
        _check_time(config, path)
        _check_attention(config, path)
        coarsest = 2 ** (len(config["block_out_channels"]) - 1)
        if config["sample_size"] % coarsest:
            raise UserError(
                f"{path}: sample_size = {config['sample_size']} is not divisible by {coarsest}, so the network's "
                "maps do not match on the way up"
            )
        channels, out = config["in_channels"], config.get("out_channels", 3)
        if out not in (channels, 2 * channels):
            raise UserError(
                f"{path}: in_channels = {channels} and out_channels = {out}: the network reads more than the noised "
                f"map (or predicts something else); expected out_channels {channels}, or {2 * channels} with a "
                "learnt variance"
            )

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Refuses times that a table of learnt embeddings does not have."""
        if config.get("time_embedding_type") != "learned":
            return found
        rows = config["num_train_timesteps"]
        if not isinstance(found, VariancePreserving) or found.timesteps > rows:
            kind = found.config.get("_class_name", "DDPMScheduler")
            raise UserError(
                f"{path}: time_embedding_type = 'learned' is a table of {rows} steps, but the scheduler has "
                f"{found.timesteps} and is a {kind}; give the one that the model was trained with"
            )
        return found

    def classes(self, config: Mapping[str, Any]) -> int | None:
        """Returns the rows of the table of labels, one of which may be a null class."""
        return config.get("num_class_embeds")

    def null(self, config: Mapping[str, Any]) -> int | None:
        """Returns None: the configuration does not say which row is the null class."""
        return None

    def steps(self, config: Mapping[str, Any], size: int) -> tuple[list[Step], float]:
        """Numbers input, middle and output blocks; computed from shapes, so that plans start no other process."""
        return steps_of(config, Costs(config), size)

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block between input and output blocks."""
        return middle_of(blocks)

    def index(self, folder: Path) -> dict[str, Any] | None:
        """Returns the index of a `DDPMPipeline`, or of an `LDMPipeline` on the latents of a `VQModel`."""
        parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
        if (folder / "vqvae").is_dir():
            return {"_class_name": "LDMPipeline", **parts, "vqvae": ["diffusers", "VQModel"]}
        return None if (folder / "vae").is_dir() else {"_class_name": "DDPMPipeline", **parts}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network, with the label if it takes one."""
        return network(z_BCHW, time_B, condition.get("label")).sample


FAMILY = UNetFamily()


def middle_of(blocks: Sequence[Block]) -> Block:
    """Returns the block between a U-Net's input and output blocks; without one, the last input block."""
    return [block for block in blocks if not block.name.startswith("up_blocks.")][-1]


class Costs:
    """Multiply-accumulates of a U-Net's layers, for one image."""

    def __init__(self, network: Mapping[str, Any]) -> None:
        first = network["block_out_channels"][0]
        self._embedding = network.get("time_embedding_dim") or 4 * first
        self._scale_shift = network.get("resnet_time_scale_shift", "default") == "scale_shift"
        self._head = None if network.get("num_attention_heads") else network.get("attention_head_dim", HEAD)
        sines = network.get("model_channels", first)  # of an `ADMUNet2DModel`
        self.timestep = self._embedding * (sines + self._embedding)

    def residual(self, before: int, after: int, size: int) -> float:
        """Two 3x3 convolutions, the timestep's projection and, if the width changes, a 1x1 convolution."""
        shortcut = before * after if before != after else 0
        projection = self._embedding * after * (2 if self._scale_shift else 1)
        return (9 * before * after + 9 * after**2 + shortcut) * size**2 + projection

    def attention(self, width: int, size: int) -> float:
        """Self-attention over the map."""
        tokens, inner = size**2, self.inner(width)
        return 4 * tokens * width * inner + 2 * tokens**2 * inner

    def inner(self, width: int) -> int:
        """Returns the channels of all heads together, less than `width` if heads do not divide it."""
        return width if self._head is None else width // self._head * self._head

    def middle(self, width: int, size: int, attention: bool) -> float:
        """Two residual blocks with attention between them."""
        return 2 * self.residual(width, width, size) + (self.attention(width, size) if attention else 0)

    def resample(self, width: int, size: int, residual: bool) -> float:
        """An up- or downsampler that outputs a map of `size`: a residual block or one 3x3 convolution."""
        return self.residual(width, width, size) if residual else 9 * width**2 * size**2


def steps_of(network: Mapping[str, Any], costs: Costs, size: int) -> tuple[list[Step], float]:
    """Returns `Family.steps` of a `UNet2DModel` with these layer costs.

    Blocks are input blocks, the middle block and output blocks, as in guided-diffusion (ADM): a downsampler is a
    separate block, an upsampler is part of the last block of its level.
    """
    widths, layers = list(network["block_out_channels"]), network.get("layers_per_block", 2)
    first, last = widths[0], len(widths) - 1
    steps = [
        Step("conv_in", first, size, 9 * network["in_channels"] * first * size**2 + costs.timestep),
    ]
    skips, width = [first], first
    for level, (out, kind) in enumerate(zip(widths, network["down_block_types"], strict=True)):
        part = "attentions" if "Attn" in kind else "resnets"
        for layer in range(layers):
            cost = costs.residual(width, out, size) + ("Attn" in kind) * costs.attention(out, size)
            name = f"down_blocks.{level}.{part}.{layer}"
            steps.append(Step(name, out, size, cost, _points(name, layer, kind, out, size, costs.inner(out))))
            skips.append(out)
            width = out
        if level < last:
            size //= 2
            cost = costs.resample(out, size, _residual(kind, network.get("downsample_type")))
            steps.append(Step(f"down_blocks.{level}.downsamplers.0", out, size, cost))
            skips.append(out)
    attends = network.get("add_attention", True)
    points = _points(f"{MIDDLE}.0", 0, "Attn" if attends else "", width, size, costs.inner(width))
    steps.append(Step(MIDDLE, width, size, costs.middle(width, size, attends), points))
    for level, (out, kind) in enumerate(zip(reversed(widths), network["up_block_types"], strict=True)):
        part = "attentions" if "Attn" in kind else "resnets"
        for layer in range(layers + 1):
            cost = costs.residual(width + skips.pop(), out, size)
            cost += ("Attn" in kind) * costs.attention(out, size)
            name, width = f"up_blocks.{level}.{part}.{layer}", out
            points = _points(name, layer, kind, out, size, costs.inner(out))
            if layer == layers and level < last:
                size, name = size * 2, f"up_blocks.{level}.upsamplers.0"
                cost += costs.resample(out, size, _residual(kind, network.get("upsample_type")))
            steps.append(Step(name, out, size, cost, points))
    return steps, 9 * first * network.get("out_channels", 3) * size**2


def _points(block: str, layer: int, kind: str, width: int, size: int, inner: int) -> tuple[Point, ...]:
    """Returns the parts of one layer of a `UNet2DModel`'s block; `inner` are the channels of queries."""
    level = block.rsplit(".", 2)[0] if block.count(".") > 1 else MIDDLE
    attention = f"{level}.attentions.{layer}"
    paths = {"resnet": f"{level}.resnets.{layer}"}
    if "Attn" in kind:
        paths |= {"attention": attention, "query": f"{attention}.to_q"}
        paths |= {"key": f"{attention}.to_k", "value": f"{attention}.to_v"}
    return tuple(
        Point(part, path, inner if part in ("query", "key", "value") else width, size)
        for part, path in paths.items()
        if path != block
    )


def _residual(kind: str, sampler: str | None) -> bool:
    """Returns whether a level's sampler is a residual block; for some types the configuration decides."""
    return kind.startswith("Resnet") or (kind.startswith("Attn") and sampler == "resnet")


def unet_names(network: Mapping[str, Any]) -> list[str]:
    """Returns the modules of a U-Net's blocks, in the order in which they run.

    Blocks are input blocks, the middle block and output blocks, as in guided-diffusion (ADM): a downsampler is a
    separate block, an upsampler is part of the last block of its level.
    """
    down, up = network["down_block_types"], network["up_block_types"]
    layers = network.get("layers_per_block", 2)
    counts = [layers] * len(down) if isinstance(layers, int) else list(layers)
    names = ["conv_in"]
    for level, (kind, count) in enumerate(zip(down, counts, strict=True)):
        names += [f"down_blocks.{level}.{_part(kind)}.{layer}" for layer in range(count)]
        if level < len(down) - 1:
            names.append(f"down_blocks.{level}.downsamplers.0")
    if network.get("mid_block_type", MIDDLE) is not None:
        names.append(MIDDLE)
    for level, (kind, count) in enumerate(zip(up, reversed(counts), strict=True)):
        names += [f"up_blocks.{level}.{_part(kind)}.{layer}" for layer in range(count + 1)]
        if level < len(up) - 1:
            names[-1] = f"up_blocks.{level}.upsamplers.0"
    return names


def _part(kind: str) -> str:
    return "attentions" if "Attn" in kind else "resnets"


def parts_of_unet(block: str, modules: Sequence[str]) -> dict[str, str]:
    """Returns the parts of a U-Net's block, names of `AFTER` to paths of modules.

    Attention is that of a layer's last transformer block. The block of an upsampler has the parts of the layer
    before it.
    """
    level, _, rest = block.rpartition(".attentions.")
    if not level:
        level, _, rest = block.rpartition(".resnets.")
    if block.endswith(".upsamplers.0"):
        level = block.removesuffix(".upsamplers.0")
        rest = str(
            max(
                int(one.rpartition(".")[2]) for one in modules if one.rpartition(".")[0] == f"{level}.resnets"
            )
        )
    elif block == MIDDLE:
        level, rest = MIDDLE, "0"
    if not level or ".downsamplers" in block:
        return {}
    attention = f"{level}.attentions.{rest}"
    depth = sum(one.rpartition(".")[0] == f"{attention}.transformer_blocks" for one in modules)
    if depth:
        found = parts_of_transformer(f"{attention}.transformer_blocks.{depth - 1}", modules)
    else:
        inner = {"attention": "", "query": ".to_q", "key": ".to_k", "value": ".to_v"}
        found = {part: f"{attention}{path}" for part, path in inner.items()}
    found = {"resnet": f"{level}.resnets.{rest}", **found}
    return {part: path for part, path in found.items() if path in modules and path != block}


def _check_time(config: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError` unless the network's time is a step, as sinusoids or by a table."""
    kind = config.get("time_embedding_type", "positional")
    if kind == "fourier":
        raise UserError(
            f"{path}: time_embedding_type = 'fourier': such a network (NCSN++) is told σ itself, reads images in "
            "[0, 1] and needs a ScoreSdeVeScheduler, which is not supported; expected 'positional' or 'learned'"
        )
    if kind not in ("positional", "learned"):
        raise UserError(f"{path}: time_embedding_type = {kind!r}: expected 'positional' or 'learned'")
    if kind == "learned":
        check_numbers({"num_train_timesteps": config.get("num_train_timesteps")}, path)


def _check_attention(config: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError` for attention without a head, and unknown ways in which time scales activations."""
    head = config.get("attention_head_dim", HEAD)
    widths = list(zip(config["block_out_channels"], config["down_block_types"], strict=True))
    widths += zip(reversed(config["block_out_channels"]), config["up_block_types"], strict=True)
    attend = [width for width, kind in widths if "Attn" in kind]
    attend += [config["block_out_channels"][-1]] if config.get("add_attention", True) else []
    if head is not None and (not positive(head) or any(width < head for width in attend)):
        raise UserError(
            f"{path}: attention_head_dim = {head!r}: expected a positive integer up to the channels of attention, "
            f"{min(attend, default=head)}"
        )
    kind = config.get("resnet_time_scale_shift", "default")
    if kind not in ("default", "scale_shift"):
        raise UserError(f"{path}: resnet_time_scale_shift = {kind!r}: expected 'default' or 'scale_shift'")


def check_unet(
    unet: Mapping[str, Any],
    path: Path,
    down: Sequence[str],
    up: Sequence[str],
    centres: Sequence[str | None],
) -> None:
    """Raises `UserError` for a U-Net whose blocks cannot be numbered.

    `down`, `up` and `centres` are the supported block types; the first of `centres` is the default.
    """
    widths, layers = unet.get("block_out_channels"), unet.get("layers_per_block", 2)
    if not isinstance(widths, list) or not widths or not all(positive(width) for width in widths):
        raise UserError(f"{path}: block_out_channels = {widths!r}: expected a list of channel counts")
    for name, known in (("down_block_types", down), ("up_block_types", up)):
        kinds = unet.get(name)
        if not isinstance(kinds, list) or len(kinds) != len(widths) or not set(map(str, kinds)) <= set(known):
            skips = isinstance(kinds, list) and any("Skip" in str(kind) for kind in kinds)
            raise UserError(
                f"{path}: {name} = {kinds!r}: expected {len(widths)} of {', '.join(known)}"
                + ("; those with Skip, of NCSN++, also carry a small image along" if skips else "")
            )
    numbers = {name: unet[name] for name in ("sample_size", "in_channels")}
    check_numbers(numbers, path)
    counts = layers if isinstance(layers, list) else [layers] * len(widths)
    if len(counts) != len(widths) or not all(positive(count) for count in counts):
        raise UserError(
            f"{path}: layers_per_block = {layers!r}: expected a positive integer, "
            f"or one for each of {len(widths)} levels"
        )
    groups = unet.get("norm_num_groups", 32)
    if not positive(groups) or any(width % groups for width in widths):
        raise UserError(f"{path}: norm_num_groups = {groups!r} does not divide block_out_channels = {widths}")
    if unet.get("mid_block_type", centres[0]) not in centres:
        known = " or ".join(map(str, centres))
        raise UserError(f"{path}: mid_block_type = {unet['mid_block_type']!r}: expected {known}")
    for name in ("downsample_type", "upsample_type"):
        if unet.get(name, "conv") not in ("conv", "resnet"):
            raise UserError(f"{path}: {name} = {unet[name]!r}: expected conv or resnet")


class UNet(Backbone):
    """A `UNet2DModel` trained by the sweep. `block_out_channels` has one entry per resolution, finest first."""

    name: Literal["unet"] = "unet"
    block_out_channels: list[Width] = Field([64, 128, 256], min_length=1, max_length=12)
    attention: list[bool] | None = None  # one per resolution; None: at all but the finest
    layers_per_block: int = Field(2, ge=1, le=32)
    attention_head_dim: int = Field(8, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    timesteps: int = Field(1000, ge=1, le=100_000)
    schedule: Literal["linear", "squaredcos_cap_v2"] = "linear"

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Checks divisibility of resolutions and groups, and returns the plan with diffusers' configuration."""
        levels = len(self.block_out_channels)
        attention = [level > 0 for level in range(levels)] if self.attention is None else self.attention
        if len(attention) != levels:
            raise UserError(
                f"backbone.attention has {len(attention)} entries, but block_out_channels has {levels}"
            )
        if size % 2 ** (levels - 1):
            raise UserError(
                f"images of {size} pixels cannot be halved {levels - 1} times; "
                "use fewer backbone.block_out_channels or another data.size"
            )
        for width in self.block_out_channels:
            if width < 1 or width % self.norm_num_groups or width % self.attention_head_dim:
                raise UserError(
                    f"backbone.block_out_channels = {width}: not divisible by norm_num_groups "
                    f"{self.norm_num_groups} and attention_head_dim {self.attention_head_dim}"
                )
        if size == 2 ** (levels - 1) and self.block_out_channels[-1] == self.norm_num_groups:
            raise UserError(
                f"backbone.norm_num_groups = {self.norm_num_groups}: the smallest map has one pixel and one "
                "channel per group, which leaves nothing to normalise; use fewer groups or fewer block_out_channels"
            )
        network = {
            "sample_size": size,
            "in_channels": channels,
            "out_channels": channels,
            "block_out_channels": list(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "attention_head_dim": self.attention_head_dim,
            "norm_num_groups": self.norm_num_groups,
            "down_block_types": ["AttnDownBlock2D" if there else "DownBlock2D" for there in attention],
            "up_block_types": ["AttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attention)],
        }
        scheduler = {"num_train_timesteps": self.timesteps, "beta_schedule": self.schedule}
        return BackbonePlan(network, process_of(scheduler), None, fingerprint([network, scheduler]), size)
