"""JSON objects that hold a checksum of their own content: a damaged file or line is never taken for a valid one."""

import json
from collections.abc import Mapping
from typing import Any

from harness.core.fingerprint import fingerprint

CHECKSUM = "checksum"


def sealed(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns `values` as JSON with their fingerprint; NaN, infinity and a key "checksum" are errors."""
    if CHECKSUM in values:
        raise ValueError(f"{CHECKSUM!r} is where the fingerprint goes")
    return json.dumps({CHECKSUM: fingerprint(values), **values}, indent=indent)


def older(content: bytes | str) -> dict[str, Any]:
    """Returns the values of JSON that has no checksum, as all had in schema version 1; none for anything else."""
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) and CHECKSUM not in values else {}


def unsealed(content: bytes | str) -> dict[str, Any]:
    """Returns the values in JSON that `sealed` wrote; raises `ValueError` if anything in them has changed."""
    values = json.loads(content)
    if not isinstance(values, dict) or values.pop(CHECKSUM, None) != fingerprint(values):
        raise ValueError("the content does not match its checksum")
    return values
