"""What a source of images hands over, and how its images become one array."""

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from harness.core.errors import UserError
from harness.data.config import DataConfig


class Record(NamedTuple):
    """One image as it lies in the source."""

    image: bytes | np.ndarray  # an encoded file, or grey levels 0..255 as uint8 [H, W] or [H, W, 3]
    label: int
    split: str | None  # "train", "validation", "test", or None where the source has no splits
    where: str  # how to find it, for messages


class Source(NamedTuple):
    """A readable data set."""

    records: Iterable[Record]
    classes: Sequence[str]


def decode(records: Sequence[Record], config: DataConfig) -> np.ndarray:
    """Returns the images as uint8 [N, C, H, W]; raises `UserError` naming the image that cannot be read."""
    channels = config.channels
    images: list[np.ndarray] = []
    for record in records:
        image = _open(record)
        if channels is None:
            channels = 1 if image.mode in ("1", "L", "LA", "I", "I;16", "F") else 3
        pixels = np.asarray(_cropped(image.convert("L" if channels == 1 else "RGB"), config.size))
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images and pixels.shape != images[0].shape:
            raise UserError(
                f"{record.where}: {pixels.shape[2]}x{pixels.shape[1]} pixels where the first image has "
                f"{images[0].shape[2]}x{images[0].shape[1]}; set data.size to bring them to one size"
            )
        images.append(pixels)
    if not images:
        raise UserError(f"data set {config.name!r} at {config.path!r} holds no images")
    stack = np.stack(images)
    if stack.shape[2] != stack.shape[3]:
        raise UserError(f"images are {stack.shape[3]}x{stack.shape[2]} pixels; set data.size to make them square")
    return stack


def _open(record: Record) -> Image.Image:
    try:
        if isinstance(record.image, bytes):
            image = Image.open(io.BytesIO(record.image))
            image.load()
            if image.mode.startswith("I;16"):  # Pillow would cut grey levels off at 255
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image
        return Image.fromarray(record.image)
    except (OSError, ValueError, TypeError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{record.where}: the image cannot be read: {error}") from None


def _cropped(image: Image.Image, size: int | None) -> Image.Image:
    """Resizes the shorter side to `size` and cuts the centre, as ADM's evaluation does."""
    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
