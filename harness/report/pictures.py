"""Pictures that rows and tables carry."""

import base64
import binascii
import struct
from typing import Any, NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"


class Sheet(NamedTuple):
    """A picture of samples."""

    picture: str  # PNG, base64
    width: int  # pixels
    height: int


def sheet(picture: Any) -> Sheet | None:
    """Reads the size of a picture; None for anything but a PNG in base64, because rows may come from anywhere."""
    if not isinstance(picture, str):
        return None
    try:
        content = base64.b64decode(picture, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not content.startswith(PNG) or len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return Sheet(picture, width, height) if width and height else None
