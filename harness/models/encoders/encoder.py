"""Encoders as data: networks beside the backbone that see images, named in an experiment. No torch here.

An `Encoder` is configuration. Its `stage` holds the network where workers find it, and `open_encoder(stage, ...)`
reads that into what runs: `.layers`, `.features(x_BCHW, layers)` and `.pooled(x_BCHW)`. The networks themselves are
in `harness.models.encoders.vision`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, Self

from pydantic import Field

from harness.core.config import Config, read_json
from harness.core.errors import UserError, unknown
from harness.core.fingerprint import checksum
from harness.core.recent import Recent
from harness.core.registry import Registry, load_attribute
from harness.core.stages import Code, Context, Stage
from harness.models import hub

if TYPE_CHECKING:
    import torch

ENCODERS = Registry(
    "encoder",
    {
        "pretrained": "harness.models.encoders.encoder:PretrainedEncoder",
        "random": "harness.models.encoders.encoder:Random",
        "pixels": "harness.models.encoders.encoder:Pixels",
        "inception": "harness.models.encoders.inception:Inception",
    },
)

VISION = "harness.models.encoders.vision"
NETWORK = Code("encoder", 1)  # what encoders make of images
PIXELS = Code("pixels", 1, f"{VISION}:save_pixels", uses=(NETWORK,))
RANDOM = Code("random encoder", 1, f"{VISION}:save_random", uses=(NETWORK,))
PRETRAINED = Code("pretrained encoder", 1, f"{VISION}:copy_pretrained", uses=(NETWORK,))
POOLED = "pooled"  # the layer that stands for the whole image
FIRST = "embeddings"  # what goes into the first layer; then "layer.1", "layer.2", ...
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin")
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")  # the first that there is


class OpenEncoder(Protocol):
    """An encoder ready to run: frozen, in evaluation mode.

    The vectors of an image do not depend on the rest of its batch nor on any random state, and carry no gradient. An
    encoder whose stage was made for grey images sees images of one channel.
    """

    layers: list[str]  # from the input on; the last is `POOLED`

    def to(self, device: "torch.device") -> Self:
        """Moves it to `device`."""

    def features(
        self, x_BCHW: "torch.Tensor", layers: Sequence[str] | None = None
    ) -> dict[str, "torch.Tensor"]:
        """Returns float32 [B, D] by layer, each averaged over places, for images in [-1, 1]; None asks for all."""

    def pooled(self, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns float32 [B, D], one vector an image [B, C, H, W] in [-1, 1]."""


def open_encoder(stage: Stage, context: Context, device: "torch.device") -> OpenEncoder:
    """Reads the encoder of a stage; the last one is kept, for the next trial of the same process."""
    opener = load_attribute(stage.config["opener"])
    return _opened.get(stage.key, lambda: opener(context.folder(stage))).to(device)


_opened = Recent[OpenEncoder]()


class Encoder(Config):
    """Base of all encoders. An encoder's name in rows and figures is its `label`."""

    name: str
    label: str | None = Field(None, min_length=1)
    layers: Literal["all", "last"] | Annotated[list[str], Field(min_length=1)] = "last"  # which are compared

    @property
    def display_name(self) -> str:
        """The label, or what the encoder is called without one."""
        return self.label or self.name

    @abstractmethod
    def stage(self, channels: int) -> Stage:
        """Returns what holds the encoder, for images of `channels`; called once a plan. Raises `UserError`.

        Its `config["opener"]`, "module:function", makes an `OpenEncoder` of the artifact's folder. The stage depends
        on neither `label` nor `layers`, and making it twice gives the same network.
        """


def select(given: Literal["all", "last"] | Sequence[str], known: Sequence[str], label: str) -> list[str]:
    """Returns those of an encoder's layers that are asked for; raises `UserError` with the nearest name."""
    if given == "all":
        return list(known)
    if given == "last":
        return [POOLED]
    for layer in given:
        if layer not in known:
            raise unknown(f"layer of encoder {label!r}", layer, known)
    return [layer for layer in known if layer in given]


class Pixels(Encoder):
    """The images themselves: what every feature is compared with."""

    name: Literal["pixels"] = "pixels"

    def stage(self, channels: int) -> Stage:
        """Nothing can go wrong but a layer that is not there."""
        select(self.layers, [POOLED], self.display_name)
        return _stage(PIXELS, "open_pixels", {})


class Random(Encoder):
    """A small ResNet with random weights: what an architecture sees before it has learnt anything."""

    name: Literal["random"] = "random"
    widths: list[Annotated[int, Field(ge=1, le=4096)]] = Field([32, 64, 128, 256], min_length=1, max_length=8)
    size: int = Field(32, ge=4, le=2048)  # images are resized to this
    seed: int = Field(0, ge=0, lt=2**63)

    def stage(self, channels: int) -> Stage:
        """Nothing can go wrong but a layer that is not there."""
        select(self.layers, layer_names(len(self.widths)), self.display_name)
        return _stage(
            RANDOM,
            "open_transformers",
            {"widths": list(self.widths), "size": self.size, "seed": self.seed},
        )


class PretrainedEncoder(Encoder):
    """A vision encoder of transformers (ResNet, ViT, DINO, MAE, CLIP, ...), by its id on the Hub or a folder."""

    name: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    revision: str | None = None  # of the Hub: a commit, a tag or a branch

    @property
    def display_name(self) -> str:
        """The label, or the last part of the path."""
        return self.label or self.path.rstrip("/").rpartition("/")[2] or self.path

    def stage(self, channels: int) -> Stage:
        """Reads the two small configuration files; the weights are fetched when the stage is made."""
        found = find_pretrained("encoder", self.path, self.revision)
        check_channels(f"encoder {self.display_name!r}", found.config, channels)
        depth = _depth(vision_part(found.config))
        if depth is not None:
            select(self.layers, layer_names(depth), self.display_name)
        return _stage(PRETRAINED, "open_transformers", {"source": found.source}, found.options)


class Found(NamedTuple):
    """A pretrained model of transformers whose weights have not been read."""

    config: dict[str, Any]  # its config.json
    source: dict[str, Any]  # what names its content: checksums, or a commit
    options: dict[str, Any]  # what its weights are read by: path and revision


def find_pretrained(place: str, path: str, revision: str | None) -> Found:
    """Returns what a folder or an id of the Hub holds; raises `UserError`, beginning with `place`.path, otherwise."""
    folder = config_folder(place, path, revision)
    config = read_json(folder / CONFIG)
    _refuse_remote_code(place, config, path)
    if hub.local_folder(place, path) is None:
        source = {"id": path, "commit": folder.name}
        return Found(config, source, {"path": path, "revision": folder.name})
    files = sorted({file for pattern in ("*.json", *WEIGHTS) for file in folder.glob(pattern)})
    if not any(file.match(pattern) for file in files for pattern in WEIGHTS):
        raise UserError(f"{place}.path {str(folder)!r}: has no weights; save the model with save_pretrained")
    checksums = {file.name: checksum(file) for file in files}
    return Found(config, {"files": checksums}, {"path": str(folder), "revision": revision})


def config_folder(place: str, path: str, revision: str | None) -> Path:
    """Returns a folder with the two small configuration files of a model; raises `UserError` where there is none."""
    folder = hub.local_folder(place, path)
    if folder is None:
        return hub.files(place, path, revision, CONFIG, PREPROCESSING)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{place}.path {str(folder)!r}: has no config.json; give a folder that save_pretrained wrote"
        )
    return folder


def check_channels(what: str, config: Mapping[str, Any], channels: int) -> None:
    """Raises `UserError` for images that a model does not read; those of one channel are repeated three times."""
    reads = vision_part(config).get("num_channels", 3)
    if reads not in (3, channels):
        raise UserError(f"{what} reads images of {reads} channels, the data has {channels}")


def layer_names(depth: int) -> list[str]:
    """Returns the layers of a network of `depth` layers or stages."""
    return [FIRST, *(f"layer.{number}" for number in range(1, depth + 1)), POOLED]


def vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what a config.json says about images: CLIP and its kin have a part for text beside it."""
    part = config.get("vision_config")
    return part if isinstance(part, dict) else config


def _stage(
    code: Code, opener: str, config: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Stage:
    return Stage(
        kind="encoder",
        code=code,
        config={"opener": f"{VISION}:{opener}", **config},
        options=options or {},
        local=options is not None,
    )


def _depth(config: Mapping[str, Any]) -> int | None:
    """Returns the number of layers, or of stages; None if the configuration leaves it to its defaults."""
    for name in ("depths", "num_hidden_layers"):
        if isinstance(config.get(name), list):
            return len(config[name])
        if isinstance(config.get(name), int):
            return int(config[name])
    return None


def _refuse_remote_code(place: str, config: Mapping[str, Any], path: str) -> None:
    """Raises `UserError` for a model whose code lies beside its weights: it would run with the user's rights."""
    code = config.get("auto_map")
    spec = find_spec("transformers")
    if not isinstance(code, dict) or spec is None:
        return
    kind = str(config.get("model_type", "")).replace("-", "_").removesuffix("_vision_model")
    known = [Path(place) / "models" / kind for place in spec.submodule_search_locations or []]
    if not kind or not any(folder.is_dir() for folder in known):
        raise UserError(
            f"{place}.path {path!r}: the model needs code of its own ({next(iter(code), 'auto_map')}), which is "
            "never run; choose one that transformers has built in, such as facebook/dinov2-base"
        )
