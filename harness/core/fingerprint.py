"""Fingerprints: equal values give the same short name, whatever the process, machine or order of keys."""

import hashlib
import json
from pathlib import Path
from typing import Any


def canonical(values: Any) -> str:
    """Returns `values` as JSON with sorted keys and no spaces. NaN and unknown types are errors."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(values: Any) -> str:
    """Returns 20 hexadecimal digits (80 bits) that identify JSON-like `values`."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()[:20]


def digest(content: bytes) -> dict[str, Any]:
    """Returns size and SHA-256 of a file's content, as manifests hold them."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
