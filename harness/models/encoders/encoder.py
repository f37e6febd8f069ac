"""Encoders as configuration: models other than the backbone that map images to vectors. No torch here.

An `Encoder` is the configuration. Its `stage` stores the model in the results, and `open_encoder(stage, ...)` returns
an `OpenEncoder` with `.layers`, `.features(x_BCHW, layers)` and `.pooled(x_BCHW)`. The models themselves are in
`harness.models.encoders.vision`.
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
NETWORK = Code("encoder", 1)  # how encoders compute vectors
PIXELS = Code("pixels", 1, f"{VISION}:save_pixels", uses=(NETWORK,))
RANDOM = Code("random encoder", 1, f"{VISION}:save_random", uses=(NETWORK,))
PRETRAINED = Code("pretrained encoder", 1, f"{VISION}:copy_pretrained", uses=(NETWORK,))
POOLED = "pooled"  # the layer with one vector for the whole image
FIRST = "embeddings"  # the input of the first layer; then "layer.1", "layer.2", ...
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.bin")
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")  # the first that exists


class OpenEncoder(Protocol):
    """An encoder ready to run: frozen, in evaluation mode.

    The vectors of an image depend neither on the rest of its batch nor on any random state, and carry no gradient. An
    encoder whose stage was made for one channel is given greyscale images.
    """

    layers: list[str]  # in order from the input; the last is `POOLED`

    def to(self, device: "torch.device") -> Self:
        """Moves it to `device`."""

    def features(
        self, x_BCHW: "torch.Tensor", layers: Sequence[str] | None = None
    ) -> dict[str, "torch.Tensor"]:
        """Returns float32 [B, D] by layer, averaged over positions, for images in [-1, 1]; None means all layers."""

    def pooled(self, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns float32 [B, D], one vector per image [B, C, H, W] in [-1, 1]."""


def open_encoder(stage: Stage, context: Context, device: "torch.device") -> OpenEncoder:
    """Opens the encoder of a stage; the last one opened stays in memory for the next trial in the same process."""
    opener = load_attribute(stage.config["opener"])
    return _opened.get(stage.key, lambda: opener(context.folder(stage))).to(device)


_opened = Recent[OpenEncoder]()


class Encoder(Config):
    """Base of all encoders. Rows and figures show `display_name`."""

    name: str
    label: str | None = Field(None, min_length=1)
    layers: Literal["all", "last"] | Annotated[list[str], Field(min_length=1)] = "last"  # those to compare

    @property
    def display_name(self) -> str:
        """The label, or the name without one."""
        return self.label or self.name

    @abstractmethod
    def stage(self, channels: int) -> Stage:
        """Returns the stage with the encoder for images of `channels`; called once per plan. Raises `UserError`.

        Its `config["opener"]`, "module:function", makes an `OpenEncoder` from the artifact's folder. The stage
        depends on neither `label` nor `layers`, and making it twice gives the same model.
        """


def select(given: Literal["all", "last"] | Sequence[str], known: Sequence[str], label: str) -> list[str]:
    """Returns the requested layers of an encoder; raises `UserError` with the closest name."""
    if given == "all":
        return list(known)
    if given == "last":
        return [POOLED]
    for layer in given:
        if layer not in known:
            raise unknown(f"layer of encoder {label!r}", layer, known)
    return [layer for layer in known if layer in given]


class Pixels(Encoder):
    """The images themselves, as a baseline."""

    name: Literal["pixels"] = "pixels"

    def stage(self, channels: int) -> Stage:
        """Raises `UserError` for a missing layer."""
        select(self.layers, [POOLED], self.display_name)
        return _stage(PIXELS, "open_pixels", {})


class Random(Encoder):
    """A small ResNet with random weights: the effect of architecture without training."""

    name: Literal["random"] = "random"
    widths: list[Annotated[int, Field(ge=1, le=4096)]] = Field([32, 64, 128, 256], min_length=1, max_length=8)
    size: int = Field(32, ge=4, le=2048)  # images are resized to this many pixels
    seed: int = Field(0, ge=0, lt=2**63)

    def stage(self, channels: int) -> Stage:
        """Raises `UserError` for a missing layer."""
        select(self.layers, layer_names(len(self.widths)), self.display_name)
        return _stage(
            RANDOM,
            "open_transformers",
            {"widths": list(self.widths), "size": self.size, "seed": self.seed},
        )


class PretrainedEncoder(Encoder):
    """A vision encoder from transformers (ResNet, ViT, DINO, MAE, CLIP, ...), by Hub id or folder."""

    name: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    revision: str | None = None  # on the Hub: a commit, tag or branch

    @property
    def display_name(self) -> str:
        """The label, or the last part of the path."""
        return self.label or self.path.rstrip("/").rpartition("/")[2] or self.path

    def stage(self, channels: int) -> Stage:
        """Reads the two small configuration files; the weights are downloaded when the stage is made."""
        found = find_pretrained("encoder", self.path, self.revision)
        check_channels(f"encoder {self.display_name!r}", found.config, channels)
        depth = _depth(vision_part(found.config))
        if depth is not None:
            select(self.layers, layer_names(depth), self.display_name)
        return _stage(PRETRAINED, "open_transformers", {"source": found.source}, found.options)


class Found(NamedTuple):
    """A pretrained transformers model whose weights have not been read."""

    config: dict[str, Any]  # its config.json
    source: dict[str, Any]  # identifies its content: checksums, or a commit
    options: dict[str, Any]  # locates its weights: path and revision


def find_pretrained(place: str, path: str, revision: str | None) -> Found:
    """Returns the model in a folder or on the Hub; raises `UserError`, beginning with `place`.path, otherwise."""
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
    """Returns a folder with the two small configuration files of a model; raises `UserError` if there is none."""
    folder = hub.local_folder(place, path)
    if folder is None:
        return hub.files(place, path, revision, CONFIG, PREPROCESSING)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{place}.path {str(folder)!r}: has no config.json; give a folder that save_pretrained wrote"
        )
    return folder


def check_channels(what: str, config: Mapping[str, Any], channels: int) -> None:
    """Raises `UserError` for images that a model cannot read; single channels are repeated three times."""
    reads = vision_part(config).get("num_channels", 3)
    if reads not in (3, channels):
        raise UserError(f"{what} reads images of {reads} channels, but the data has {channels}")


def layer_names(depth: int) -> list[str]:
    """Returns the layer names of a model with `depth` layers or stages."""
    return [FIRST, *(f"layer.{number}" for number in range(1, depth + 1)), POOLED]


def vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the part of a config.json about images; CLIP and similar models also have one about text."""
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
    """Returns the number of layers or stages; None if the configuration does not say."""
    for name in ("depths", "num_hidden_layers"):
        if isinstance(config.get(name), list):
            return len(config[name])
        if isinstance(config.get(name), int):
            return int(config[name])
    return None


def _refuse_remote_code(place: str, config: Mapping[str, Any], path: str) -> None:
    """Raises `UserError` for a model that ships its own code, which would run with the user's permissions."""
    code = config.get("auto_map")
    spec = find_spec("transformers")
    if not isinstance(code, dict) or spec is None:
        return
    kind = str(config.get("model_type", "")).replace("-", "_").removesuffix("_vision_model")
    known = [Path(place) / "models" / kind for place in spec.submodule_search_locations or []]
    if not kind or not any(folder.is_dir() for folder in known):
        raise UserError(
            f"{place}.path {path!r}: the model requires custom code ({next(iter(code), 'auto_map')}), which is "
            "never run; choose one built into transformers, such as facebook/dinov2-base"
        )
