"""The original networks of study 2 as data: their options and the shapes of their parameters. No torch here.

A `Network` is configuration. `outline` lists its parameters without initialising them, so that a plan can name them;
`harness.models.classifiers.build` makes the network itself from its `settings`. Those of transformers may start
from a pretrained checkpoint, `path`: the architecture is then the checkpoint's.
"""

import itertools
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from harness.core.apart import apart
from harness.core.config import Config
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.registry import Registry
from harness.core.stages import Code, Stage
from harness.models.encoders.encoder import check_channels, config_folder, find_pretrained

NETWORKS = Registry(
    "network",
    {
        "convnet": "harness.models.classifiers.networks:ConvNet",
        "mlp": "harness.models.classifiers.networks:MLP",
        "resnet": "harness.models.classifiers.networks:ResNet",
        "resnet18": "harness.models.classifiers.networks:ResNet18",
        "resnet50": "harness.models.classifiers.networks:ResNet50",
        "vit": "harness.models.classifiers.networks:ViT",
        "vit-tiny": "harness.models.classifiers.networks:ViTTiny",
        "vit-base": "harness.models.classifiers.networks:ViTBase",
        "convnext": "harness.models.classifiers.networks:ConvNeXt",
        "convnext-tiny": "harness.models.classifiers.networks:ConvNeXtTiny",
        "convnext-base": "harness.models.classifiers.networks:ConvNeXtBase",
        "pretrained": "harness.models.classifiers.networks:PretrainedNetwork",
    },
)

START = Code("start", 1, "harness.models.classifiers.build:make_start")
PLACE = "weights.network"  # in an experiment, where a network's options stand
SMALL = 64  # pixels: smaller images get the stem, or the patch, for small images

Width = Annotated[int, Field(ge=1, le=65_536)]  # channels or neurons of a layer
Depth = Annotated[int, Field(ge=1, le=1000)]
Shapes = dict[str, tuple[int, ...]]


class Outline(NamedTuple):
    """The names and shapes of a network's tensors, each in the network's order."""

    parameters: Shapes
    buffers: Shapes  # floating-point ones only: running statistics

    @staticmethod
    def from_json(values: Sequence[Mapping[str, Sequence[int]]]) -> "Outline":
        """Reads parameters and buffers as JSON keeps them."""
        return Outline(*({name: tuple(shape) for name, shape in shapes.items()} for shapes in values))


class Network(Config):
    """Base of all networks. Images are square, [channels, size, size].

    `builder`, "module:function", makes an untrained network of `settings`.
    """

    name: str
    builder: ClassVar[str]

    @property
    def display_name(self) -> str:
        """The name of the network in rows and figures."""
        return self.name

    def settings(self, channels: int, size: int, classes: int) -> dict[str, Any]:
        """Returns what `builder` needs to know, JSON-like."""
        return {**self.keyed(), "channels": channels, "size": size, "classes": classes}

    @abstractmethod
    def outline(self, channels: int, size: int, classes: int) -> Outline:
        """Returns names and shapes of the tensors; raises `UserError` if such images cannot pass through."""

    def locations(self) -> dict[str, list[str]]:
        """Returns names for parts of the network, and the patterns of parameters that each stands for."""
        return {}

    def start(self, channels: int, size: int, classes: int) -> Stage | None:
        """Returns the stage with the weights that training starts from, None for random ones. Raises `UserError`."""
        return None


class ConvNet(Network):
    """Convolutions of 3 x 3 with group norm and ReLU; every stage after the first halves the map; mean; linear."""

    name: Literal["convnet"] = "convnet"
    channels: list[Width] = Field([16, 32, 32], min_length=1, max_length=30)
    groups: int = Field(4, ge=1)
    builder: ClassVar[str] = "harness.models.classifiers.build:build_convnet"

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        for width in self.channels:
            if width % self.groups:
                raise ValueError(f"channels = {width}: not divisible by groups = {self.groups}")
        return self

    def keyed(self) -> dict[str, Any]:
        """Returns the values with `channels` as `widths`: in settings, `channels` are the images'."""
        values = super().keyed()
        return {"name": values["name"], "widths": values["channels"], "groups": values["groups"]}

    def outline(self, channels: int, size: int, classes: int) -> Outline:
        """Refuses a group norm that would see a single value, which it turns into zero or refuses itself."""
        shapes: Shapes = {}
        for number, (before, after) in enumerate(itertools.pairwise([channels, *self.channels]), start=1):
            size = size if number == 1 else -(-size // 2)
            if after * size * size == self.groups:
                raise UserError(
                    f"weights.network.channels: conv{number} leaves one pixel and as many channels as groups = "
                    f"{self.groups}, nothing to normalise; give fewer groups or fewer channels"
                )
            shapes[f"conv{number}.weight"] = (after, before, 3, 3)
            shapes[f"norm{number}.weight"] = shapes[f"norm{number}.bias"] = (after,)
        return Outline({**shapes, "fc.weight": (classes, self.channels[-1]), "fc.bias": (classes,)}, {})

    def locations(self) -> dict[str, list[str]]:
        """The norms, the last of them, the first convolution, the head."""
        last = f"norm{len(self.channels)}.*"
        return {"norm": ["norm*"], "norm-last": [last], "conv1": ["conv1.*"], "fc": ["fc.*"]}


class MLP(Network):
    """Linear layers with ReLU in between, on the flattened image."""

    name: Literal["mlp"] = "mlp"
    widths: list[Width] = Field([16, 16], min_length=1, max_length=30)  # of the hidden layers
    builder: ClassVar[str] = "harness.models.classifiers.build:build_mlp"

    def outline(self, channels: int, size: int, classes: int) -> Outline:
        """Takes images of any size."""
        shapes: Shapes = {}
        widths = [channels * size * size, *self.widths]
        for number, (before, after) in enumerate(itertools.pairwise(widths), start=1):
            shapes |= {f"hidden{number}.weight": (after, before), f"hidden{number}.bias": (after,)}
        return Outline({**shapes, "fc.weight": (classes, widths[-1]), "fc.bias": (classes,)}, {})

    def locations(self) -> dict[str, list[str]]:
        """The head."""
        return {"fc": ["fc.*"]}


class Transformers(Network):
    """Base of the networks of transformers: from scratch, or with the weights of a pretrained checkpoint.

    In settings, `checkpoint` takes the place of `path`: the checkpoint's configuration and preprocessing.
    """

    path: str | None = Field(None, min_length=1)  # a folder that save_pretrained wrote, or an id of the Hub
    revision: str | None = None  # of the Hub: a commit, a tag or a branch
    # to standardise images in [0, 1], one number per channel; None: images in [-1, 1], unchanged
    image_mean: list[float] | None = Field(None, min_length=1)
    image_std: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=1)
    builder: ClassVar[str] = "harness.models.classifiers.build:build_transformers"
    kind: ClassVar[str]  # transformers' model_type

    @model_validator(mode="after")
    def _as_the_checkpoint_has_it(self) -> Self:
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError("image_mean = ...: give image_mean and image_std, or neither")
        for option in ("stem", "patch", "image_mean"):
            given = getattr(self, option, None)
            if self.path is not None and given is not None:
                raise ValueError(f"{option} = {given}: a checkpoint has its own; omit {option} or path")
        return self

    @abstractmethod
    def architecture(self, channels: int, size: int) -> dict[str, Any]:
        """Returns the options of transformers' configuration; raises `UserError` for images that it cannot take."""

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Says whether the configuration of a checkpoint is that of this network."""
        given = {"model_type": self.kind, **self.architecture(3, 224)}
        return all(config.get(name) == given[name] for name in _ARCHITECTURE if name in given)

    def keyed(self) -> dict[str, Any]:
        """Reads the checkpoint's configuration; raises `UserError` if it is not that of this network."""
        values = {name: value for name, value in super().keyed().items() if name not in ("path", "revision")}
        return {**values, "checkpoint": None if self.path is None else self._checkpoint(self.path)}

    def outline(self, channels: int, size: int, classes: int) -> Outline:
        """Builds the network on the meta device, in another process, and runs an image without data through it."""
        settings = self.settings(channels, size, classes)
        key = fingerprint(settings)
        if key not in _outlines:
            _outlines[key] = Outline.from_json(apart("harness.models.classifiers.build:outline_of", settings))
        return _outlines[key]

    def start(self, channels: int, size: int, classes: int) -> Stage | None:
        """Reads the configuration and takes checksums; the weights of the Hub are fetched when it is made."""
        if self.path is None:
            return None
        found = find_pretrained(PLACE, self.path, self.revision)
        check_channels(f"{PLACE} {self.display_name!r}", found.config, channels)
        return Stage(
            kind="start",
            code=START,
            config={
                "network": self.settings(channels, size, classes),
                "source": found.source,
            },
            options=found.options,
            local=True,
        )

    def _checkpoint(self, path: str) -> dict[str, Any]:
        folder = config_folder(PLACE, path, self.revision)
        checkpoint: dict[str, Any] = apart(
            "harness.models.classifiers.build:read_checkpoint", path, str(folder)
        )
        if not self.fits(checkpoint["config"]):
            raise UserError(
                f"weights.network.path {path!r}: this {checkpoint['config']['model_type']} is not a {self.name}; "
                "give network: {name: pretrained, path: ...}, which takes any"
            )
        return checkpoint


_outlines: dict[str, Outline] = {}  # by settings, on which they depend alone

_ARCHITECTURE = ("model_type", "hidden_sizes", "hidden_size", "depths", "num_hidden_layers", "layer_type")


class ResNets(Transformers):
    """Residual networks (He et al. 2016), the stride in the 3 x 3 convolution of a bottleneck."""

    stem: Literal["small", "large"] | None = (
        None  # 3 x 3, or 7 x 7 with stride 2 and pooling; None: by the images
    )
    kind: ClassVar[str] = "resnet"

    @abstractmethod
    def blocks(self) -> tuple[list[int], list[int], bool]:
        """Returns width and number of blocks of each stage, and whether they are bottlenecks, 4 times as wide."""

    def small_stem(self, size: int) -> bool:
        """Says whether images of this size get the stem for small ones."""
        return self.stem == "small" if self.stem else size < SMALL

    def architecture(self, channels: int, size: int) -> dict[str, Any]:
        """transformers has no option for the stem for small images: `build_transformers` replaces it."""
        widths, depths, bottleneck = self.blocks()
        return {
            "num_channels": channels,
            "embedding_size": widths[0],
            "hidden_sizes": [width * (4 if bottleneck else 1) for width in widths],
            "depths": depths,
            "layer_type": "bottleneck" if bottleneck else "basic",
        }

    def locations(self) -> dict[str, list[str]]:
        """`norm-last`: the last two norms of the last block."""
        _, depths, bottleneck = self.blocks()
        return resnet_locations(depths, bottleneck)


class ResNet(ResNets):
    """A ResNet of any size."""

    name: Literal["resnet"] = "resnet"
    widths: list[Width] = Field([16, 32, 64], min_length=1, max_length=30)
    depths: list[Depth] = Field([1, 1, 1], min_length=1, max_length=30)
    bottleneck: bool = False

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"depths = {self.depths}: expected one for each of widths = {self.widths}")
        return self

    def blocks(self) -> tuple[list[int], list[int], bool]:
        """As given."""
        return list(self.widths), list(self.depths), self.bottleneck


class ResNet18(ResNets):
    """ResNet-18. The paper counts its layers from 1 to 18: BN 16-18 are the norms of the last block."""

    name: Literal["resnet18"] = "resnet18"

    def blocks(self) -> tuple[list[int], list[int], bool]:
        """Two blocks per stage."""
        return [64, 128, 256, 512], [2, 2, 2, 2], False

    def locations(self) -> dict[str, list[str]]:
        """The paper's, 2048 numbers each: without the norms of the shortcuts."""
        norms = {"bn-10-14": "layer3.*", "bn-14-16": "layer4.0", "bn-16-18": "layer4.1"}
        paper = {name: [f"{block}.bn1.*", f"{block}.bn2.*"] for name, block in norms.items()}
        return {**paper, **super().locations()}


class ResNet50(ResNets):
    """ResNet-50."""

    name: Literal["resnet50"] = "resnet50"

    def blocks(self) -> tuple[list[int], list[int], bool]:
        """Bottlenecks."""
        return [64, 128, 256, 512], [3, 4, 6, 3], True


class ViTs(Transformers):
    """Vision transformers (Dosovitskiy et al. 2021) whose head reads the class token."""

    patch: int | None = Field(None, ge=1, le=1024)  # pixels; None: 16, of small images 4
    kind: ClassVar[str] = "vit"

    @abstractmethod
    def dimensions(self) -> tuple[int, int, int]:
        """Returns width, depth and number of heads."""

    def architecture(self, channels: int, size: int) -> dict[str, Any]:
        """Refuses a patch that does not divide the image."""
        width, depth, heads = self.dimensions()
        patch = self.patch or (16 if size >= SMALL else 4)
        if size % patch:
            fitting = [number for number in range(1, size + 1) if size % number == 0]
            raise UserError(
                f"weights.network.patch = {patch} does not divide images of {size} pixels; give one of "
                f"{', '.join(map(str, fitting))}, or another data.size"
            )
        return {
            "num_channels": channels,
            "image_size": size,
            "patch_size": patch,
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }

    def locations(self) -> dict[str, list[str]]:
        """`norm-last`: the norm before the last perceptron, and the final one."""
        return vit_locations(self.dimensions()[1])


class ViT(ViTs):
    """A ViT of any size."""

    name: Literal["vit"] = "vit"
    width: Width = 64
    depth: Depth = 4
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width}: not divisible by heads = {self.heads}")
        return self

    def dimensions(self) -> tuple[int, int, int]:
        """As given."""
        return self.width, self.depth, self.heads


class ViTTiny(ViTs):
    """ViT-T (Touvron et al. 2021), without distillation."""

    name: Literal["vit-tiny"] = "vit-tiny"

    def dimensions(self) -> tuple[int, int, int]:
        """Table 1 of DeiT."""
        return 192, 12, 3


class ViTBase(ViTs):
    """ViT-B."""

    name: Literal["vit-base"] = "vit-base"

    def dimensions(self) -> tuple[int, int, int]:
        """Table 1 of ViT."""
        return 768, 12, 12


class ConvNeXts(Transformers):
    """ConvNeXt (Liu et al. 2022)."""

    patch: int | None = Field(None, ge=1, le=1024)  # of the stem, pixels; None: 4, of small images 2 or 1
    kind: ClassVar[str] = "convnext"

    @abstractmethod
    def blocks(self) -> tuple[list[int], list[int]]:
        """Returns width and number of blocks of each stage."""

    def architecture(self, channels: int, size: int) -> dict[str, Any]:
        """Each stage after the first halves the map, rounding down."""
        widths, depths = self.blocks()
        return {
            "num_channels": channels,
            "image_size": size,
            "patch_size": self.patch or (4 if size >= SMALL else 2 if size >= SMALL // 2 else 1),
            "num_stages": len(widths),
            "hidden_sizes": widths,
            "depths": depths,
        }

    def locations(self) -> dict[str, list[str]]:
        """`norm-last`: the norm of the last block, and that of the head."""
        return convnext_locations(self.blocks()[1])


class ConvNeXt(ConvNeXts):
    """A ConvNeXt of any size."""

    name: Literal["convnext"] = "convnext"
    widths: list[Width] = Field([16, 32, 64], min_length=1, max_length=30)
    depths: list[Depth] = Field([1, 1, 1], min_length=1, max_length=30)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError(f"depths = {self.depths}: expected one for each of widths = {self.widths}")
        return self

    def blocks(self) -> tuple[list[int], list[int]]:
        """As given."""
        return list(self.widths), list(self.depths)


class ConvNeXtTiny(ConvNeXts):
    """ConvNeXt-T."""

    name: Literal["convnext-tiny"] = "convnext-tiny"

    def blocks(self) -> tuple[list[int], list[int]]:
        """Section 3 of the paper."""
        return [96, 192, 384, 768], [3, 3, 9, 3]


class ConvNeXtBase(ConvNeXts):
    """ConvNeXt-B."""

    name: Literal["convnext-base"] = "convnext-base"

    def blocks(self) -> tuple[list[int], list[int]]:
        """Section 3 of the paper."""
        return [128, 256, 512, 1024], [3, 3, 27, 3]


class PretrainedNetwork(Transformers):
    """Any image classifier of transformers, with the architecture of its checkpoint."""

    name: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    kind: ClassVar[str] = ""

    @property
    def display_name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2] or self.path

    def architecture(self, channels: int, size: int) -> dict[str, Any]:
        """Not available without the checkpoint."""
        raise NotImplementedError("a pretrained network has the architecture of its checkpoint")

    def locations(self) -> dict[str, list[str]]:
        """Those of the networks above for checkpoints of their kind; else by the conventions of transformers."""
        config = self.keyed()["checkpoint"]["config"]
        if config["model_type"] == "resnet":
            return resnet_locations(config["depths"], config["layer_type"] == "bottleneck")
        if config["model_type"] == "vit":
            return vit_locations(config["num_hidden_layers"])
        if config["model_type"] == "convnext":
            return convnext_locations(config["depths"])
        return {"norm": ["*norm*"], "fc": ["*classifier.*"]}

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Takes any."""
        return True


def resnet_locations(depths: list[int], bottleneck: bool) -> dict[str, list[str]]:
    """Returns the parts of a ResNet by the names of torchvision."""
    last = f"layer{len(depths)}.{depths[-1] - 1}"
    return {
        "norm-last": [f"{last}.bn2.*", f"{last}.bn3.*"] if bottleneck else [f"{last}.bn1.*", f"{last}.bn2.*"],
        "norm": ["*bn*", "*downsample.1.*"],
        "conv1": ["conv1.*"],
        "fc": ["fc.*"],
    }


def vit_locations(depth: int) -> dict[str, list[str]]:
    """Returns the parts of a ViT by the names of timm."""
    return {
        "norm-last": [f"blocks.{depth - 1}.norm2.*", "norm.*"],
        "norm": ["*norm*"],
        "fc": ["head.*"],
    }


def convnext_locations(depths: list[int]) -> dict[str, list[str]]:
    """Returns the parts of a ConvNeXt by the names of timm."""
    return {
        "norm-last": [f"stages.{len(depths) - 1}.blocks.{depths[-1] - 1}.norm.*", "head.norm.*"],
        "norm": ["*norm*", "stem.1.*", "*downsample.0.*"],
        "fc": ["head.fc.*"],
    }


# By the prefix of transformers' names. The braces count its groups, then each group plus one: torchvision counts
# stages, convolutions and norms from 1.
_CANONICAL: dict[str, dict[str, str]] = {
    "resnet.": {
        r"embedder\.embedder\.convolution": "conv1",
        r"embedder\.embedder\.normalization": "bn1",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution": "layer{2}.{1}.downsample.0",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization": "layer{2}.{1}.downsample.1",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution": "layer{3}.{1}.conv{5}",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization": "layer{3}.{1}.bn{5}",
    },
    "vit.": {
        r"embeddings\.cls_token": "cls_token",
        r"embeddings\.position_embeddings": "pos_embed",
        r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
        r"layers\.(\d+)\.attention\.([qkv])_proj": "blocks.{0}.attn.{1}",
        r"layers\.(\d+)\.attention\.o_proj": "blocks.{0}.attn.proj",
        r"layers\.(\d+)\.layernorm_before": "blocks.{0}.norm1",
        r"layers\.(\d+)\.layernorm_after": "blocks.{0}.norm2",
        r"layers\.(\d+)\.mlp\.(fc1|fc2)": "blocks.{0}.mlp.{1}",
        r"layernorm": "norm",
    },
    "convnext.": {
        r"embeddings\.patch_embeddings": "stem.0",
        r"embeddings\.layernorm": "stem.1",
        r"encoder\.stages\.(\d+)\.downsampling_layer\.(\d+)": "stages.{0}.downsample.{1}",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter": "stages.{0}.blocks.{1}.gamma",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.dwconv": "stages.{0}.blocks.{1}.conv_dw",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layernorm": "stages.{0}.blocks.{1}.norm",
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.pwconv([12])": "stages.{0}.blocks.{1}.mlp.fc{2}",
        r"layernorm": "head.norm",
    },
}
_HEADS = {  # the last layer: transformers' name, then that of torchvision or timm
    "resnet.": ("classifier.1.", "fc."),
    "vit.": ("classifier.", "head."),
    "convnext.": ("classifier.", "head.fc."),
}


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Returns the names in torchvision (ResNet) or timm (ViT, ConvNeXt) for tensors of a network of transformers.

    Their `attn.qkv` is split into `attn.q`, `attn.k`, `attn.v`. Names of other networks are returned unchanged.
    """
    names = list(names)
    kind = next((kind for kind in _CANONICAL for name in names if name.startswith(kind)), None)
    return {name: _canonical_name(name, kind) if kind else name for name in names}


def _canonical_name(name: str, kind: str) -> str:
    head, theirs = _HEADS[kind]
    if name.startswith(head):
        return theirs + name.removeprefix(head)
    for pattern, form in _CANONICAL[kind].items():
        match = re.fullmatch(rf"{re.escape(kind)}{pattern}(|\.weight|\.bias|\.running_\w+|\.num_\w+)", name)
        if match:
            *parts, ending = match.groups()
            return form.format(*parts, *(int(part) + 1 if part.isdecimal() else 0 for part in parts)) + ending
    return name
