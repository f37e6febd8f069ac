"""Networks made without any learning, that stand beside the generated ones.

A control is a `Control`; `make` sees the originals' normalised parameters and returns those of its networks.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.core.config import Config
from harness.core.registry import Registry

CONTROLS = Registry(
    "control",
    {
        "noise": "harness.weights.controls:Noise",
        "gaussian": "harness.weights.controls:Gaussian",
        "average": "harness.weights.controls:Average",
    },
)


class Control(Config):
    """Base of all controls. A subclass has a field `name` equal to its registered name."""

    name: str
    version: ClassVar[int] = 1  # raised when the same values would give other networks
    networks: int = Field(20, ge=1)  # how many to make, of each setting

    @abstractmethod
    def make(self, originals_KP: np.ndarray, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Returns vectors [networks, P] by setting, None for a control that has none. Called once a trial."""

    def count(self) -> int:
        """Returns how many vectors `make` returns, of all settings together."""
        return self.networks


class Noise(Control):
    """An original plus Gaussian noise on its z-scored parameters (p-diff's noise baseline)."""

    name: Literal["noise"] = "noise"
    scales: list[Annotated[float, Field(gt=0)]] = Field([0.001, 0.05, 0.15], min_length=1)

    def count(self) -> int:
        """Counts every scale."""
        return self.networks * len(self.scales)

    def make(self, originals_KP: np.ndarray, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Adds noise of each scale to originals taken at random."""
        chosen = originals_KP[draw.integers(len(originals_KP), size=self.networks)]
        return {scale: chosen + scale * draw.standard_normal(chosen.shape) for scale in self.scales}


class Gaussian(Control):
    """A Gaussian a coordinate, with the originals' mean and deviation (arXiv 2506.07998)."""

    name: Literal["gaussian"] = "gaussian"

    def make(self, originals_KP: np.ndarray, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Draws every parameter by itself."""
        shape = (self.networks, originals_KP.shape[1])
        return {None: originals_KP.mean(0) + originals_KP.std(0) * draw.standard_normal(shape)}


class Average(Control):
    """The average of a few originals taken at random (arXiv 2506.07998 takes 16)."""

    name: Literal["average"] = "average"
    of: int = Field(16, ge=2)

    def make(self, originals_KP: np.ndarray, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Averages subsets; all of the originals where there are fewer."""
        size = min(self.of, len(originals_KP))
        subsets = [draw.choice(len(originals_KP), size, replace=False) for _ in range(self.networks)]
        return {float(self.of): np.stack([originals_KP[subset].mean(0) for subset in subsets])}
