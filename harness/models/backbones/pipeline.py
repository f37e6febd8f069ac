"""The folder of a diffusers pipeline, and where its parts are. No torch."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from harness.core.config import read_json
from harness.core.errors import UserError

INDEX = "model_index.json"
AVERAGED = "_ema"  # what the training scripts of diffusers append to a folder with averaged weights
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
DTYPE = (
    "_torch_dtype"  # key in a network's config.json: in which type it is opened; diffusers ignores such names
)
# Where a pipeline keeps its scheduler.
SCHEDULERS = ("scheduler/scheduler_config.json", "scheduler_config.json")


class Pipeline(NamedTuple):
    """A pipeline's folder: a subfolder per part, or everything in one folder as in early pipelines."""

    root: Path
    place: Path | None = None  # of the network, if it is not the first that `network` would find in `root`
    variant: str | None = None  # of weights, such as fp16; parts that have no such files are read as they are
    checkpoint: str | None = None  # a single file, from which all parts come that it holds

    @classmethod
    def around(cls, folder: Path, networks: Sequence[str], chosen: str | None = None) -> Self:
        """Returns the pipeline of a folder: of a pipeline, of a checkpoint in a training's output, or of a network.

        `networks` are names of networks' folders, `chosen` the name of the one to read. Of a checkpoint, which has no
        index that names one, averaged weights are read: they are those of the pipeline that training ends with.

        Raises `UserError` if `chosen` is not there.
        """
        here = next((folder / name for name in networks if (folder / name).is_dir()), None)
        place = here
        if chosen is not None:
            place = folder / chosen
            if not (place / CONFIG).is_file():
                there = sorted(one.parent.name for one in folder.glob(f"*/{CONFIG}"))
                raise UserError(
                    f"backbone.network = {chosen!r}: {folder} has no such network; "
                    + (f"folders there: {', '.join(there)}" if there else "it has no folders of networks")
                )
        elif here is not None and not (folder / INDEX).is_file():
            averaged = here.with_name(here.name + AVERAGED)
            place = averaged if averaged.is_dir() else here
        whole = folder.absolute()
        candidates = [folder, whole.parent]
        if whole.name.removesuffix(AVERAGED) in networks:  # perhaps of a checkpoint
            candidates.append(whole.parent.parent)
        root = next((one for one in candidates if _whole(one)), folder)
        return cls(folder) if root == folder and place == here else cls(root, place or folder)

    def notes(self, folder: Path, networks: Sequence[str]) -> list[str]:
        """Returns what should be known of how `around` read a folder: parts from elsewhere, and the other weights."""
        place = self.network(networks)
        lines = []
        if self.root != folder:
            lines.append(f"{place} is part of the pipeline {self.root}, whose other parts are used")
        averaged = place.name.endswith(AVERAGED)
        other = place.name.removesuffix(AVERAGED) if averaged else place.name + AVERAGED
        if place != folder and (place.parent / other).is_dir():
            lines.append(
                f"{place} is read{', with averaged weights' if averaged else ''}, not {other} beside it; "
                f"backbone.network={other} reads that"
            )
        return lines

    @property
    def reading(self) -> dict[str, str]:
        """Where its weights are, besides in its folders: fields of this class that are set, as JSON-like data."""
        found = {"variant": self.variant, "checkpoint": self.checkpoint}
        return {name: value for name, value in found.items() if value is not None}

    def part(self, name: str) -> Path | None:
        """Returns the folder of a part; None if it does not exist."""
        return self.root / name if (self.root / name).is_dir() else None

    def file(self, name: str) -> Path | None:
        """Returns a file in the pipeline's folder; None if it does not exist."""
        return self.root / name if (self.root / name).is_file() else None

    def network(self, folders: Iterable[str]) -> Path:
        """Returns the folder of the denoising network: its own place, or the first of `folders`, or the root."""
        if self.place is not None:
            return self.place
        return next((part for name in folders if (part := self.part(name))), self.root)

    @property
    def kind(self) -> str | None:
        """The class of the pipeline, as its index says; None without an index that says so."""
        index = self.file(INDEX)
        return None if index is None else read_json(index).get("_class_name")

    @property
    def scheduler(self) -> Path | None:
        """The configuration of the scheduler, if there is one."""
        return next((path for name in SCHEDULERS if (path := self.file(name))), None)


def _whole(folder: Path) -> bool:
    """Returns whether a folder is a pipeline's, with parts besides the network."""
    signs = (INDEX, *SCHEDULERS, f"vae/{CONFIG}", f"vqvae/{CONFIG}")
    return any((folder / sign).is_file() for sign in signs)


class Weights(NamedTuple):
    """A file of tensors, and the network whose tensors they must be."""

    path: Path
    network: str  # "module:class" of a diffusers network with `from_config`
    config: dict[str, Any]


class Latents(NamedTuple):
    """The autoencoder of a pipeline."""

    folder: str  # in the pipeline, and in an artifact
    config: dict[str, Any]  # as its kind read it

    @property
    def kind(self) -> str:
        """The class of the autoencoder."""
        return str(self.config.get("_class_name", "AutoencoderKL"))


class Parts(NamedTuple):
    """The other parts of a pipeline, and the images that the whole reads."""

    size: int  # height and width of images, in pixels
    channels: int  # of images
    map_size: int  # height and width of what noise is added to
    latents: Latents | None = None  # None: noise is added to the images themselves
    files: Sequence[Path] = ()  # copied into the artifact besides the network's weights; may be missing
    weights: Sequence[Weights] = ()  # the `files` whose tensors are checked against a configuration
