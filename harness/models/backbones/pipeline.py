"""The folder of a diffusers pipeline: where its parts lie. No torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"


class Pipeline(NamedTuple):
    """A pipeline by its folder: parts in folders of their names, or all in one as in early pipelines."""

    root: Path

    def part(self, name: str) -> Path | None:
        """Returns the folder of a part; None if the pipeline does not have it."""
        return self.root / name if (self.root / name).is_dir() else None

    def file(self, name: str) -> Path | None:
        """Returns a file beside the parts; None if it is not there."""
        return self.root / name if (self.root / name).is_file() else None

    def network(self, folders: Iterable[str]) -> Path:
        """Returns the folder of the denoising network: the first of `folders` that is there, or the root."""
        return next((part for name in folders if (part := self.part(name))), self.root)

    @property
    def scheduler(self) -> Path | None:
        """The configuration of the scheduler, if there is one."""
        return self.file("scheduler/scheduler_config.json") or self.file("scheduler_config.json")


class Weights(NamedTuple):
    """A file of tensors and the network that they must be those of."""

    path: Path
    network: str  # "module:class" of diffusers, which has `from_config`
    config: dict[str, Any]


class Parts(NamedTuple):
    """What of a pipeline goes with the network, and which images the whole reads."""

    size: int  # height and width of images, in pixels
    channels: int
    configs: list[dict[str, Any]]  # of further networks
    files: list[Path]  # of which the artifact consists beside the network's weights; need not be there
    weights: list[Weights]  # those of `files` whose tensors are checked against a configuration
