"""What `harness export --networks` and `harness generate` write and `harness.load` reads: networks, best first.

networks.json                what they are: the network's settings, the varied parameters, classes, accuracies
network-000.safetensors ...  all tensors of one network, under the names of its original class
README.md                    the model card
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from harness.core.config import Config, parse, read_json
from harness.core.errors import UserError
from harness.data.pixels import as_pixels
from harness.data.transforms import as_input
from harness.models.classifiers.build import build

FORMAT = 1  # of the folder; raised when an older harness could not read it
ABOUT, CARD = "networks.json", "README.md"
BATCH = 256  # images in one forward pass


class Written(Config):
    """One network of the folder."""

    file: str = Field(pattern=r"^network-\d+\.safetensors$")
    number: int  # among those that the generator draws, from 0
    validation_accuracy: float
    test_accuracy: float


class About(Config):
    """The content of `networks.json`."""

    format: int = FORMAT
    harness_version: str
    network: dict[str, Any]  # settings of `harness.models.classifiers.build`
    parameters: list[str]  # names of those that were generated
    classes: list[str]
    networks: list[Written]  # the best on validation first


class Networks(Sequence[nn.Module]):
    """Generated networks of one folder, the best on validation first; each is read when it is asked for."""

    def __init__(self, folder: Path, about: About, device: torch.device) -> None:
        self.about, self._folder, self._device = about, folder, device
        self.classes = tuple(about.classes)

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.about.networks)

    @overload
    def __getitem__(self, place: int) -> nn.Module: ...
    @overload
    def __getitem__(self, place: slice) -> list[nn.Module]: ...
    def __getitem__(self, place: int | slice) -> nn.Module | list[nn.Module]:
        """Returns a network in evaluation mode: images [N, C, H, W] in [-1, 1] to logits. Raises `UserError`."""
        if isinstance(place, slice):
            return [self._read(one) for one in self.about.networks[place]]
        return self._read(self.about.networks[place])

    def __iter__(self) -> Iterator[nn.Module]:
        """Yields the networks one after the other."""
        return map(self._read, self.about.networks)

    def _read(self, written: Written) -> nn.Module:
        network = build(self.about.network)
        path = self._folder / written.file
        try:
            network.load_state_dict(load_file(path))
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read: {error}; export it again") from None
        return network.to(self._device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Any, network: int = 0) -> torch.Tensor:
        """Returns class probabilities [N, classes] on the CPU of the network at that place.

        `images` are as `harness.load` takes them of any classifier: PIL images, or arrays or tensors of grey levels,
        or of floats from 0 to 1.
        """
        model, settings = self[network], self.about.network
        pixels_NCHW = torch.from_numpy(as_pixels(images, settings["size"], settings["channels"]))
        parts = [model(as_input(x.to(self._device))).softmax(1).cpu() for x in pixels_NCHW.split(BATCH)]
        return torch.cat(parts)


def load(folder: str | Path, device: str | torch.device | None = None) -> Networks:
    """Reads the folder's list of networks. Raises `UserError` if it is damaged or a newer harness wrote it."""
    folder = Path(folder).expanduser()
    values = read_json(folder / ABOUT)
    if not isinstance(values.get("format"), int) or values["format"] > FORMAT:
        raise UserError(
            f"{folder}: written by harness {values.get('harness_version')} in format {values.get('format')}, this "
            f"harness reads up to {FORMAT}; install a newer one"
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Networks(folder, parse(About, values, str(folder / ABOUT)), place)


def save_about(about: About, folder: Path) -> None:
    """Writes `networks.json`."""
    text = json.dumps(about.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / ABOUT).write_text(f"{text}\n", encoding="utf-8")
