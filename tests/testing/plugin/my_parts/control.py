"""Midpoints between two originals."""

from typing import Literal

import numpy as np

from harness.weights.controls import Control, Material


class Midpoint(Control):
    """The middle of two originals taken at random."""

    name: Literal["midpoint"] = "midpoint"

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Draws pairs, which may be an original twice."""
        pairs_N2 = draw.integers(len(material.originals_KP), size=(self.networks, 2))
        return {None: material.originals_KP[pairs_N2].mean(1)}
