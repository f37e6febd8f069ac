"""How an encoded image becomes pixels, and what can be told of it without decoding."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from harness.core.errors import BadData, UserError
from harness.data.source import Record

# What is opened, whatever a file is called. Pillow also knows programs (EPS starts Ghostscript), documents and
# containers of other formats; no camera or data set stores images in them.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF")
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
LEVELS = (1.0, 255.0, 4095.0, 65535.0)  # the largest of floats, and of 8, 12 and 16 bits
GREY = ("1", "L", "LA", "La", *DEEP)
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange width and height
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what a whole file ends with
TAIL = 4096  # bytes at the end in which it is looked for: some programs append bytes of their own


class Pixels(NamedTuple):
    """How all images of a data set are decoded."""

    channels: int  # 1 grey, 3 colour
    size: int  # of the square images
    white: float | None = None  # the level that becomes 255 in deep grey images, if there are any


class Seen(NamedTuple):
    """What is known of an image that was not decoded. One with an `error` has no other values."""

    digest: bytes = b"\0" * 16  # of the encoded bytes
    size: int = 0  # bytes
    width: int = 0  # as displayed, after EXIF orientation
    height: int = 0
    grey: bool = False
    level: float = float("nan")  # the largest grey level, of deep images alone, which are decoded for it
    floats: bool = False
    error: str = ""


def encoded(record: Record) -> bytes | np.ndarray:
    """Returns a record's encoded bytes, or its grey levels; raises `UserError` if its file cannot be read."""
    try:
        if isinstance(record.image, Path):
            return record.image.read_bytes()
        if isinstance(record.image, str):
            file_system, path = fsspec.core.url_to_fs(record.image)
            return bytes(file_system.cat_file(path))
    except Exception as error:  # each file system has its own
        raise UserError(f"{record.where}: the image cannot be read: {_reason(error)}") from None
    return record.image


def digest_of(content: bytes | np.ndarray) -> bytes:
    """Returns the digest [16 bytes] of encoded bytes, or of grey levels and their shape."""
    digest = hashlib.sha256()  # twice as fast as BLAKE2 where the processor knows SHA
    if isinstance(content, np.ndarray):
        digest.update(repr(content.shape).encode())
        digest.update(np.ascontiguousarray(content).data)
    else:
        digest.update(content)
    return digest.digest()[:16]


def look(record: Record, whole: bool = False) -> Seen:
    """Returns what is known of an image without decoding it; with `whole` it is decoded, to see whether it can be.

    Deep grey images are decoded for their largest level, and files without their format's end to see what is missing.
    """
    try:
        content = encoded(record)
        if isinstance(content, np.ndarray):
            height, width = content.shape[:2]
            return Seen(digest_of(content), content.nbytes, width, height, content.ndim == 2)
        with _opened(content, record.where) as image:
            width, height = image.size
            grey, level, floats = image.mode in GREY, float("nan"), image.mode == "F"
            if width != height and _orientation(image, content) >= 5:
                width, height = height, width
            if whole or image.mode in DEEP or ENDS.get(image.format or "", b"") not in content[-TAIL:]:
                _load(image, record.where)
                level = _level(image, record.where) if image.mode in DEEP else level
        return Seen(digest_of(content), len(content), width, height, grey, level, floats)
    except UserError as error:
        return Seen(error=str(error))


def _orientation(image: Image.Image, content: bytes) -> int:
    """Returns EXIF orientation, 1 for none; from 5 on it exchanges width and height."""
    if image.format == "PNG" and b"eXIf" not in content:
        return 1  # Pillow would decode the image to look behind its pixels
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data
        return 1


def _level(image: Image.Image, where: str) -> float:
    levels = np.asarray(image)
    low, high = float(levels.min()), float(levels.max())
    if not 0 <= low <= high <= LEVELS[-1]:
        raise UserError(f"{where}: grey levels from {low:g} to {high:g}; expected 0 to 1, 255, 4095 or 65535")
    return high


def white_of(highest: float, floats: bool) -> float:
    """Returns which of `LEVELS` is white: the smallest that no level exceeds; 1 is for floats alone."""
    return next(white for white in LEVELS if highest <= white and (floats or white > 1))


def open_image(content: bytes | np.ndarray, where: str) -> Image.Image:
    """Returns a decoded image, turned as EXIF says; raises `UserError` if it cannot be decoded."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    image = _opened(content, where)
    _load(image, where)
    return ImageOps.exif_transpose(image) if _orientation(image, content) != 1 else image


def _opened(content: bytes, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # large images are fine, huge ones raise an error
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise UserError(
            f"{where}: the image cannot be read: not one of {', '.join(sorted(FORMATS))}; convert or remove it"
        ) from None
    except Exception as error:  # decoders of hostile bytes raise whatever they like
        raise UserError(f"{where}: the image cannot be read: {_reason(error)}") from None


def _load(image: Image.Image, where: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:
        raise UserError(f"{where}: the image cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def decoded(contents: Iterable[tuple[bytes | np.ndarray, str]], pixels: Pixels) -> Iterator[np.ndarray]:
    """Yields images, given as (encoded bytes or grey levels, place for messages), as uint8 [C, H, W].

    Raises `BadData` after the last, naming all that cannot be read.
    """
    unreadable = []
    for content, where in contents:
        try:
            image = open_image(content, where)
        except UserError as error:
            unreadable.append(str(error))
            continue
        yield prepared(image, pixels.channels, pixels.size, pixels.white)
    if unreadable:
        raise BadData(*unreadable)


def prepared(image: Image.Image, channels: int, size: int | None, white: float | None = None) -> np.ndarray:
    """Returns an image as networks see it, uint8 [C, H, W]: grey or RGB, resized to `size` if given.

    Transparent parts are white. A deep grey image's level `white` becomes 255; by default 65535 of 16 bits, and of a
    float or int32 image the smallest of `LEVELS` that it does not exceed.
    """
    if image.mode in DEEP:
        if white is None:
            deep = image.mode.startswith("I;16")
            white = LEVELS[-1] if deep else white_of(_level(image, "image"), image.mode == "F")
        levels = np.asarray(image).astype(np.float64) * (255 / white)
        image = Image.fromarray(np.rint(levels).astype(np.uint8))
    image, mode = on_white(image), "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
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


def _cropped(image: Image.Image, size: int | None) -> Image.Image:
    """Resizes the shorter side to `size` and crops the centre, as ADM's `center_crop_arr` does.

    Images at least twice as large are halved first, by averages of 2x2 pixels.
    """
    if size is None or image.size == (size, size):
        return image
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
