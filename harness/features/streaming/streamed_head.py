"""What is stored of a streamed head: its weights and its correctness, but no features."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.core.stages import Context, Stage

WEIGHTS, ABOUT = "head.safetensors", "about.json"
EVALUATION = (
    "streamed evaluation"  # name from which the seed of evaluation noise is derived, except for ridge
)
CORRECT = "correct/"  # prefix of the correctness arrays, stored with the weights


class StreamedHead(NamedTuple):
    """A head that learnt from a stream."""

    weights: Mapping[str, np.ndarray]  # the head's, and "mean" and "scale" [D] if features are standardised
    right_validation: np.ndarray  # boolean, in the order of the split
    right_test: np.ndarray
    regularisation: float | None
    parameters: int
    error: str | None = None  # why its training failed; other heads of the run may have succeeded


def publish(
    wanted: Sequence[Stage],
    kept: Sequence[StreamedHead],
    folder: Path,
    context: Context,
    began: float,
    precision: str,
) -> None:
    """Writes the first of `wanted` to `folder` and publishes the others.

    `began` is a `time.monotonic()`, `precision` that of the passes.
    """
    for stage, head in list(zip(wanted, kept, strict=True))[::-1]:
        place = folder if stage is wanted[0] else folder.parent / stage.key
        place.mkdir(exist_ok=True)
        correct = {"validation": head.right_validation, "test": head.right_test}
        arrays = {f"{CORRECT}{name}": right.astype(np.uint8) for name, right in correct.items()}
        save_file({**head.weights, **arrays}, place / WEIGHTS)
        seconds = time.monotonic() - began
        noted = {
            "regularisation": head.regularisation,
            "parameters": head.parameters,
            "error": head.error,
            "precision": precision,
            "fit_seconds": seconds / len(wanted),  # the head's share of the run
        }
        (place / ABOUT).write_text(json.dumps(noted))
        if stage is not wanted[0]:
            context.publish(stage, place, seconds)


def read(stage: Stage, context: Context) -> StreamedHead:
    """Returns what `publish` stored."""
    noted = about(stage, context)
    arrays = load_file(context.file(stage, WEIGHTS))
    return StreamedHead(
        {name: array for name, array in arrays.items() if not name.startswith(CORRECT)},
        arrays[f"{CORRECT}validation"].astype(bool),
        arrays[f"{CORRECT}test"].astype(bool),
        noted["regularisation"],
        noted["parameters"],
        noted["error"],
    )


def about(stage: Stage, context: Context) -> dict[str, Any]:
    """Returns what was noted of a head: its share of the run's time in `fit_seconds`, the passes' `precision`."""
    found: dict[str, Any] = json.loads(context.file(stage, ABOUT).read_text())
    return found
