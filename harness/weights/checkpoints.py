"""The collected checkpoints as everything that learns from them reads them.

N checkpoints, P varied parameters, K of the checkpoints taken as originals.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from harness.core.seeds import rng
from harness.core.stages import Context, Stage
from harness.weights.layout import Layout
from harness.weights.vectors import choose

NETWORK = "network.safetensors"
VECTORS = "vectors.safetensors"
LAYOUT = "layout.json"
ENOUGH_HELD_OUT = 2  # fewer do not show how far apart checkpoints are


class Checkpoints(NamedTuple):
    """All collected checkpoints, by step and then trajectory."""

    vectors_NP: np.ndarray  # float32
    steps_N: np.ndarray  # of the training since the base network, int64
    trajectory_N: np.ndarray
    held_out_N: np.ndarray  # booleans: withheld from everything that learns
    layout: Layout


def open_trajectory(stage: Stage, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Returns a trajectory's vectors [N, P] and their steps [N], oldest first."""
    arrays = load_file(context.file(stage, VECTORS))
    return arrays["vectors"], arrays["steps"]


def open_checkpoints(stage: Stage, context: Context) -> Checkpoints:
    """Reads all collected checkpoints and their layout."""
    arrays = load_file(context.file(stage, VECTORS))
    return Checkpoints(
        arrays["vectors"],
        arrays["steps"],
        arrays["trajectory"],
        arrays["held_out"].astype(bool),
        Layout.load(context.file(stage, LAYOUT)),
    )


def chosen(checkpoints: Checkpoints, config: Mapping[str, Any]) -> np.ndarray:
    """Returns the indices [K] of the `k` originals that `subset` chooses, ascending; `seed` draws random ones."""
    free = np.flatnonzero(~checkpoints.held_out_N)
    draw = rng(config["seed"], "subset")
    return free[choose(len(free), config["k"], config["subset"], draw)]


def held_out(checkpoints: Checkpoints, places_K: np.ndarray) -> np.ndarray:
    """Returns the indices of the checkpoints to compare with: those held out between the first and last original.

    Outside the originals' range of steps training has moved on; checkpoints from there would make anything look
    copied.
    """
    places = np.flatnonzero(checkpoints.held_out_N)
    steps = checkpoints.steps_N[places_K]
    return places[(checkpoints.steps_N[places] >= steps.min()) & (checkpoints.steps_N[places] <= steps.max())]
