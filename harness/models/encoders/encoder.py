"""Encoders as data: networks beside the backbone that see images, named in an experiment. No torch here.

An `Encoder` is configuration. Its `stage` holds the network where workers find it, and `open_encoder(stage, ...)`
reads that into what runs: `.layers`, `.features(x_BCHW, layers)` and `.pooled(x_BCHW)`. The networks themselves are
in `harness.models.encoders.vision`.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, Self

from pydantic import Field

from harness.core.config import Config, read_json
from harness.core.errors import UserError, unknown
from harness.core.fingerprint import checksum
from harness.core.registry import Registry, load_attribute
from harness.core.stages import Code, Stage, Workshop

if TYPE_CHECKING:
    import torch

ENCODERS = Registry(
    "encoder",
    {
        "pretrained": "harness.models.encoders.encoder:Pretrained",
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


def open_encoder(stage: Stage, workshop: Workshop, device: "torch.device") -> OpenEncoder:
    """Reads the encoder of a stage; the last one is kept, for the next trial of the same process."""
    if stage.key not in _opened:
        _opened.clear()
        _opened[stage.key] = load_attribute(stage.config["opener"])(workshop.folder(stage))
    return _opened[stage.key].to(device)


_opened: dict[str, OpenEncoder] = {}


class Encoder(Config):
    """Base of all encoders. An encoder's name in rows and figures is its `label`."""

    name: str
    label: str | None = Field(None, min_length=1)
    layers: Literal["all", "last"] | Annotated[list[str], Field(min_length=1)] = "last"  # which are compared

    @property
    def called(self) -> str:
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
        select(self.layers, [POOLED], self.called)
        return _stage(PIXELS, "open_pixels", {})


class Random(Encoder):
    """A small ResNet with random weights: what an architecture sees before it has learnt anything."""

    name: Literal["random"] = "random"
    widths: list[Annotated[int, Field(ge=1, le=4096)]] = Field([32, 64, 128, 256], min_length=1, max_length=8)
    size: int = Field(32, ge=4, le=2048)  # images are resized to this
    seed: int = Field(0, ge=0, lt=2**63)

    def stage(self, channels: int) -> Stage:
        """Nothing can go wrong but a layer that is not there."""
        select(self.layers, layer_names(len(self.widths)), self.called)
        return _stage(
            RANDOM,
            "open_transformers",
            {"widths": list(self.widths), "size": self.size, "seed": self.seed},
        )


class Pretrained(Encoder):
    """A vision encoder of transformers (ResNet, ViT, DINO, MAE, CLIP, ...), by its id on the Hub or a folder."""

    name: Literal["pretrained"] = "pretrained"
    path: str = Field(min_length=1)
    revision: str | None = None  # of the Hub: a commit, a tag or a branch

    @property
    def called(self) -> str:
        """The label, or the last part of the path."""
        return self.label or self.path.rstrip("/").rpartition("/")[2] or self.path

    def stage(self, channels: int) -> Stage:
        """Reads the two small configuration files; the weights are fetched when the stage is made."""
        folder, source = self._find()
        config = read_json(folder / "config.json")
        _refuse_remote_code(config, self.path)
        seen = vision_part(config)
        if seen.get("num_channels", 3) not in (3, channels):
            raise UserError(
                f"encoder {self.called!r} reads images of {seen['num_channels']} channels, the data has {channels}"
            )
        depth = _depth(seen)
        if depth is not None:
            select(self.layers, layer_names(depth), self.called)
        options = {"path": str(self._local() or self.path), "revision": source.get("commit") or self.revision}
        return _stage(PRETRAINED, "open_transformers", {"source": source}, options)

    def _local(self) -> Path | None:
        """Returns the folder that the path names; None if it is an id of the Hub."""
        try:
            folder = Path(self.path).expanduser()
            return folder if folder.is_dir() else None
        except (OSError, RuntimeError, ValueError):  # too long, no such user, a null character
            return None

    def _find(self) -> tuple[Path, dict[str, Any]]:
        """Returns a folder with the configuration, and what names the content: checksums, or a commit."""
        folder = self._local()
        if folder is None:
            folder = _from_hub(self.path, self.revision)
            return folder, {"id": self.path, "commit": folder.name}
        if not (folder / "config.json").is_file():
            raise UserError(
                f"encoder.path {str(folder)!r}: has no config.json; give a folder that save_pretrained wrote"
            )
        files = sorted({file for pattern in ("*.json", *WEIGHTS) for file in folder.glob(pattern)})
        if not any(file.match(pattern) for file in files for pattern in WEIGHTS):
            raise UserError(
                f"encoder.path {str(folder)!r}: has no weights; save the model with save_pretrained"
            )
        return folder, {"files": {file.name: checksum(file) for file in files}}


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
        here=options is not None,
    )


def _depth(config: Mapping[str, Any]) -> int | None:
    """Returns the number of layers, or of stages; None if the configuration leaves it to its defaults."""
    for name in ("depths", "num_hidden_layers"):
        if isinstance(config.get(name), list):
            return len(config[name])
        if isinstance(config.get(name), int):
            return int(config[name])
    return None


def _refuse_remote_code(config: Mapping[str, Any], path: str) -> None:
    """Raises `UserError` for a model whose code lies beside its weights: it would run with the user's rights."""
    code = config.get("auto_map")
    spec = find_spec("transformers")
    if not isinstance(code, dict) or spec is None:
        return
    kind = str(config.get("model_type", "")).replace("-", "_").removesuffix("_vision_model")
    known = [Path(place) / "models" / kind for place in spec.submodule_search_locations or []]
    if not kind or not any(folder.is_dir() for folder in known):
        raise UserError(
            f"encoder.path {path!r}: the model needs code of its own ({next(iter(code), 'auto_map')}), which is "
            "never run; choose one that transformers has built in, such as facebook/dinov2-base"
        )


def _from_hub(path: str, revision: str | None) -> Path:
    """Returns a folder with the configuration files of a model on the Hub, named as its commit."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or len(path) > 96:
        raise UserError(
            f"encoder.path {path[:200]!r}: no such folder; give one that save_pretrained wrote, or an id of the Hub"
        )
    try:
        return _downloaded(path, revision)
    except LocalEntryNotFoundError:
        raise UserError(
            f"encoder.path {path!r}: no such folder, and the Hub cannot be reached; give a folder, or go online once"
        ) from None
    except Exception as error:  # the library raises many kinds: missing, gated, no such revision
        raise UserError(
            f"encoder.path {path!r}: no such folder, and not on the Hub: {str(error).splitlines()[0]}"
        ) from None


def _downloaded(path: str, revision: str | None) -> Path:
    """Returns the folder of the Hub's cache with config.json and, where the model has it, its preprocessing."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = Path(hf_hub_download(path, "config.json", revision=revision)).parent
    for name in PREPROCESSING:
        try:
            hf_hub_download(path, name, revision=found.name)
            break
        except LocalEntryNotFoundError:  # offline: absent only if it was seen to be
            if try_to_load_from_cache(path, name, revision=found.name) is None:
                raise
        except EntryNotFoundError:
            continue
    return found
