"""What a source of images returns, and how its images become one array."""

import io
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.core.errors import UserError
from harness.core.paths import path_of
from harness.data.config import DataConfig

# What is opened, whatever a file is called. Pillow also knows programs (EPS starts Ghostscript), documents and
# containers of other formats; no camera or data set stores images in them.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


MOST_NAMED = 20  # unreadable images in one message


class Record(NamedTuple):
    """One image as stored in the source."""

    image: bytes | Path | np.ndarray  # an encoded file, or grey levels 0..255 as uint8 [H, W] or [H, W, 3]
    label: int
    split: str | None  # "train", "validation", "test", or None if the source has no splits
    where: str  # how to find it, for messages: one line, unique to the image


class Source(NamedTuple):
    """A readable data set.

    Records come in the same order whenever the same content is read: an image's index identifies its noise draws.
    What cannot be read raises a `UserError` that names its location, in `read` or while records are iterated.
    """

    records: Iterable[Record]
    classes: Sequence[str]
    notes: Sequence[str] = ()  # what was left out, one sentence each


def place_of(config: DataConfig, what: str) -> Path:
    """Returns `data.path`; raises `UserError` if it is missing or invalid. `what` describes what it should name."""
    if not config.path:
        raise UserError(f"data.path is missing: data set {config.name!r} needs {what}")
    place = path_of(config.path)
    if place is None:
        raise UserError(f"data.path {config.path[:60]!r}: not a valid path: too long, or of an unknown user")
    return place


def decode(records: Sequence[Record], config: DataConfig) -> np.ndarray:
    """Returns the images as uint8 [N, C, H, W]; raises `UserError` naming the images that cannot be read.

    Grey levels of more than eight bits are scaled alike in all images: see `Depth`.
    """
    channels, depth = config.channels, None
    stack: np.ndarray = np.empty(0)
    unreadable = []
    for number, record in enumerate(records):
        try:
            image = _open(record)
            if image.mode in DEEP and depth is None:
                depth = depth_of(records)
        except UserError as error:
            unreadable.append(str(error))
            continue
        image = eight_bits(image, depth) if depth is not None else image
        if channels is None:
            channels = 1 if image.mode in ("1", "L", "LA") else 3
        pixels = prepared(image, channels, config.size)
        if not len(stack):
            stack = _room_for(len(records), pixels.shape)
        if pixels.shape != stack.shape[1:]:
            raise UserError(
                f"{record.where}: {pixels.shape[2]}x{pixels.shape[1]} pixels where the first image has "
                f"{stack.shape[3]}x{stack.shape[2]}; set data.size to resize all to one size"
            )
        stack[number] = pixels
    if unreadable:
        more = f"; and {len(unreadable) - MOST_NAMED} more" if len(unreadable) > MOST_NAMED else ""
        raise UserError("; ".join(unreadable[:MOST_NAMED]) + more)
    if not len(stack):
        raise UserError(f"data set {config.name!r} at {config.path!r} holds no images")
    if stack.shape[2] != stack.shape[3]:
        raise UserError(
            f"images are {stack.shape[3]}x{stack.shape[2]} pixels; set data.size to make them square"
        )
    return stack


def prepared(image: Image.Image, channels: int, size: int | None) -> np.ndarray:
    """Returns an image as networks see it, uint8 [C, H, W]: grey or RGB, resized to `size` if given.

    Transparent parts are white. White is 65535 in a 16-bit image; a float or int32 image by itself is scaled by its
    own largest level.
    """
    white = LEVELS[-1] if image.mode.startswith("I;16") else None
    image = on_white(eight_bits(image, white)).convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(_cropped(image, size))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def on_white(image: Image.Image) -> Image.Image:
    """Returns an image without transparency: what shows through is white."""
    if image.mode not in ("LA", "PA", "RGBA", "La", "RGBa") and "transparency" not in image.info:
        return image
    grey = image.mode in ("L", "LA", "La", "1")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("L" if grey else "RGB")


DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
LEVELS = (1.0, 255.0, 4095.0, 65535.0)  # the largest of floats, and of 8, 12 and 16 bits


def depth_of(records: Sequence[Record]) -> float:
    """Returns which of `LEVELS` is white in all deep grey images: the smallest that none exceeds.

    1 is for floats alone. Raises `UserError` for levels below 0, above 65535, or not finite.
    """
    highest, floats = 0.0, True
    for record in records:
        image = _open(record)
        if image.mode not in DEEP:
            continue
        levels = np.asarray(image)
        low, high = float(levels.min()), float(levels.max())
        if not 0 <= low <= high <= LEVELS[-1]:
            raise UserError(
                f"{record.where}: grey levels from {low:g} to {high:g}; expected 0 to 1, 255, 4095 or 65535"
            )
        highest, floats = max(highest, high), floats and image.mode == "F"
    return next(white for white in LEVELS if highest <= white and (floats or white > 1))


def eight_bits(image: Image.Image, white: float | None = None) -> Image.Image:
    """Returns a deep grey image with levels 0 to 255, `white` becoming 255; Pillow would clip them. Others stay."""
    if image.mode not in DEEP:
        return image
    white = depth_of([Record(np.asarray(image), 0, None, "image")]) if white is None else white
    levels = np.asarray(image).astype(np.float64) * (255 / white)
    return Image.fromarray(np.rint(levels).astype(np.uint8))


def _room_for(count: int, shape: tuple[int, ...]) -> np.ndarray:
    needed = count * int(np.prod(shape))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise UserError(
            f"{count} images of {shape[2]}x{shape[1]} pixels need {needed / 2**30:.0f} GiB, but this machine has "
            f"{there / 2**30:.0f} GiB; set a smaller data.size, or data.max_train, max_validation and max_test"
        )
    return np.empty((count, *shape), np.uint8)


def _open(record: Record) -> Image.Image:
    try:
        if isinstance(record.image, bytes | Path):
            content = record.image.read_bytes() if isinstance(record.image, Path) else record.image
            with warnings.catch_warnings():
                # large images are fine, huge ones raise an error
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(content), formats=FORMATS)
                image.load()
            return ImageOps.exif_transpose(image)
        return Image.fromarray(record.image)
    except UnidentifiedImageError:
        raise UserError(
            f"{record.where}: the image cannot be read: not one of {', '.join(FORMATS)}; convert or remove it"
        ) from None
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        reason = str(error) or type(error).__name__
        raise UserError(f"{record.where}: the image cannot be read: {reason}") from None


def _cropped(image: Image.Image, size: int | None) -> Image.Image:
    """Resizes the shorter side to `size` and crops the centre, as ADM's evaluation does."""
    if size is None or image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
