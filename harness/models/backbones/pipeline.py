"""The folder of a diffusers pipeline, and where its parts are. No torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
DTYPE = (
    "_torch_dtype"  # key in a network's config.json: in which type it is opened; diffusers ignores such names
)


class Pipeline(NamedTuple):
    """A pipeline's folder: a subfolder per part, or everything in one folder as in early pipelines."""

    root: Path

    def part(self, name: str) -> Path | None:
        """Returns the folder of a part; None if it does not exist."""
        return self.root / name if (self.root / name).is_dir() else None

    def file(self, name: str) -> Path | None:
        """Returns a file in the pipeline's folder; None if it does not exist."""
        return self.root / name if (self.root / name).is_file() else None

    def network(self, folders: Iterable[str]) -> Path:
        """Returns the folder of the denoising network: the first of `folders` that exists, or the root."""
        return next((part for name in folders if (part := self.part(name))), self.root)

    @property
    def scheduler(self) -> Path | None:
        """The configuration of the scheduler, if there is one."""
        return self.file("scheduler/scheduler_config.json") or self.file("scheduler_config.json")


class Weights(NamedTuple):
    """A file of tensors, and the network whose tensors they must be."""

    path: Path
    network: str  # "module:class" of a diffusers network with `from_config`
    config: dict[str, Any]


class Parts(NamedTuple):
    """The other parts of a pipeline, and the images that the whole reads."""

    size: int  # height and width of images, in pixels
    channels: int
    configs: list[dict[str, Any]]  # of further networks
    files: list[Path]  # copied into the artifact besides the network's weights; may be missing
    weights: list[Weights]  # the `files` whose tensors are checked against a configuration
