"""What `harness export` writes and `harness.load` reads: images in, features or class probabilities out.

extractor.json       settings: block, timestep, pool, noise draws, head, classes, image size
backbone/            the diffusion backbone, in diffusers' format
head.safetensors     the head's weights, and the mean and scale that standardise features
README.md            the model card
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.core.config import Config, parse
from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.data.pixels import as_pixels
from harness.features.extract import read_blocks
from harness.features.heads.head import Fitted, head_of
from harness.models.backbones.denoiser import Denoiser, load_denoiser

FORMAT = 1  # of the folder; raised when older versions cannot read it
ABOUT, BACKBONE, HEAD, CARD = "extractor.json", "backbone", "head.safetensors", "README.md"
HEADS_OWN = "head."  # prefix of the head's weights
MEAN, SCALE = "mean", "scale"  # what features are standardised by, if they are
BATCH = 64  # images per forward pass
ANY_IMAGE = 2**32 - 1  # addresses the noise of images outside the data set: no index is as large


class About(Config):
    """The content of `extractor.json`."""

    format: int = FORMAT
    harness_version: str
    features: str  # "trained" or "finetuned"
    block: int
    module: str  # the block's module in the backbone
    timestep: int
    pool: int
    draws: int = Field(ge=1)  # noise draws that features are averaged over
    seed: int
    noise: str | None = (
        None  # a name from which the seed of the noise is derived; None: the noise of extraction
    )
    noised: bool = True  # False: images get no noise, though the network is told the timestep
    precision: Literal["auto", "float32", "bfloat16"]
    head: dict[str, Any]
    shape: list[int]  # of an image's features: C, pool, pool
    classes: list[str]
    size: int  # height and width of images
    channels: Literal[1, 3]
    multilabel: bool = False  # whether an image may be of several classes


class Extractor:
    """A frozen diffusion backbone read at one block, with a classifier on top.

    Features are read from noised images, averaged over `draws` noise draws. The noise is the same for every image and
    call, so a result depends only on the image, not on the rest of its batch.
    """

    def __init__(
        self,
        about: About,
        denoiser: Denoiser,
        head: Fitted,
        standard: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """`standard` is the mean and scale that standardise features before the head reads them, or None."""
        self.about = about
        self.classes = tuple(about.classes)
        self._denoiser, self._head, self._standard = denoiser, head, standard

    def __call__(self, images: Any, *, index: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Returns class probabilities, float32 [N, classes] on the CPU: the softmax of the head's scores.

        Where an image may be of several classes, each has a probability of its own: the sigmoid of its score.

        `images` are a list of PIL images, or an array or tensor [N, C, H, W] or [N, H, W, C] of grey levels (uint8)
        or of floats from 0 to 1. They are brought to the backbone's size as those of the data set were: resized
        by their shorter side and centre-cropped. `index` gives the images' indices in the data set of the experiment,
        so that they get the same noise as there. Raises `UserError` for images that cannot be read.
        """
        parts = []
        for x_BCPP in self._batches(images, index):
            if self._standard is not None:
                x_BCPP = (x_BCPP - self._standard[0]) / self._standard[1]
            scores_BK = torch.from_numpy(self._head.scores(x_BCPP.numpy())).float()
            parts.append(scores_BK.sigmoid() if self.about.multilabel else scores_BK.softmax(1))
        return torch.cat(parts)

    def features(self, images: Any, *, index: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Returns features, float32 [N, C, pool, pool] on the CPU, before standardisation."""
        return torch.cat(list(self._batches(images, index)))

    def _batches(self, images: Any, index: Sequence[int] | np.ndarray | None) -> Iterator[torch.Tensor]:
        about = self.about
        pixels_NCHW = as_pixels(images, about.size, about.channels)
        names_N = np.full(len(pixels_NCHW), ANY_IMAGE) if index is None else np.asarray(index, np.int64)
        if names_N.shape != (len(pixels_NCHW),):
            raise UserError(
                f"index has shape {names_N.shape}: expected one index for each of {len(pixels_NCHW)} images"
            )
        tap = about.module, about.pool
        for _, found in read_blocks(
            self._denoiser,
            pixels_NCHW,
            np.arange(len(pixels_NCHW)),
            timestep=about.timestep,
            taps=[tap],
            noised=about.noised,
            draws=about.draws,
            seed=derive_seed(about.seed, about.noise) if about.noise else about.seed,
            batch=BATCH,
            precision=about.precision,
            names_M=names_N,
        ):
            yield found[tap].cpu()


def save_head(folder: Path, module: torch.nn.Module, standard: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Writes a head's weights, and the mean and scale of its features (float32, in the features' shape) if given."""
    tensors = {f"{HEADS_OWN}{name}": value.cpu().contiguous() for name, value in module.state_dict().items()}
    if standard is not None:
        tensors |= {
            name: torch.from_numpy(np.ascontiguousarray(value, np.float32))
            for name, value in zip((MEAN, SCALE), standard, strict=True)
        }
    save_file(tensors, folder / HEAD)


def load(folder: str | Path, device: str | torch.device | None = None) -> Extractor:
    """Loads a folder that `harness export` wrote onto `device`, by default the GPU if there is one.

    Raises `UserError` for any other folder, or if a newer harness wrote it.
    """
    folder = Path(folder).expanduser()
    about = _read_about(folder)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        tensors = load_file(folder / HEAD)
        denoiser = load_denoiser(folder / BACKBONE, device=place)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: the export cannot be read: {error}; export it again") from None
    standard = (tensors.pop(MEAN), tensors.pop(SCALE)) if MEAN in tensors else None
    module = head_of(about.head).module(tuple(about.shape), len(about.classes))
    try:
        module.load_state_dict({name.removeprefix(HEADS_OWN): value for name, value in tensors.items()})
    except RuntimeError as error:
        raise UserError(f"{folder / HEAD}: not the weights of head {about.head['name']!r}: {error}") from None
    if place.type == "mps":  # MPS has no float64
        module = module.float()
    fitted = Fitted(module.eval().requires_grad_(False).to(place), None)
    return Extractor(about, denoiser, fitted, standard)


def _read_about(folder: Path) -> About:
    path = folder / ABOUT
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = int(values["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder}: not an export: it has no readable {ABOUT}; "
            "create one with: python -m harness export EXPERIMENT --to FOLDER"
        ) from None
    if version > FORMAT:
        raise UserError(
            f"{folder}: written by harness {values.get('harness_version')} in format {version}, this version reads "
            f"formats up to {FORMAT}; install a newer harness"
        )
    return parse(About, values, str(path))
