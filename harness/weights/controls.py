"""Controls: networks that no diffusion model wrote, to compare the generated ones with.

A control is a `Control`; `make` sees a `Material` and returns the normalised parameters of its networks. No torch.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from harness.core.checks import duplicates
from harness.core.config import Config
from harness.core.registry import Registry

if TYPE_CHECKING:
    from harness.weights.layout import Layout
    from harness.weights.vectors import Normaliser

CONTROLS = Registry(
    "control",
    {
        "noise": "harness.weights.controls:Noise",
        "absolute_noise": "harness.weights.controls:AbsoluteNoise",
        "gaussian": "harness.weights.controls:Gaussian",
        "average": "harness.weights.controls:Average",
        "fine_tuned": "harness.weights.controls:FineTuned",
        "other_seed": "harness.weights.controls:OtherSeed",
        "decoded_gaussian": "harness.weights.controls:DecodedGaussian",
    },
)
TRAJECTORIES = ("other_seed", "fine_tuned")  # what a control may need in addition to the originals


def _different(scales: list[float]) -> list[float]:
    for scale in duplicates(scales):
        raise ValueError(f"{scale} is given twice")
    return scales


Scales = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_different)]


@dataclass(frozen=True)
class Material:
    """What controls are made of: a trial's k originals, its autoencoder and further checkpoints.

    All vectors are float32 and normalised as the originals are; L is the length of a latent.
    """

    originals_KP: np.ndarray
    layout: "Layout"
    scale: "Normaliser"
    encode: Callable[[np.ndarray], np.ndarray]  # [N, P] -> [N, L]; as `decode`, without noise
    decode: Callable[[np.ndarray], np.ndarray]  # [N, L] -> [N, P]
    other_seed_OP: np.ndarray | None = None  # a trajectory with another seed, oldest first
    fine_tuned_FP: np.ndarray | None = None  # training resumed from the last of the originals

    @cached_property
    def latents_KL(self) -> np.ndarray:
        """The originals' latents, encoded on first use."""
        return self.encode(self.originals_KP)


class Control(Config):
    """Base of all controls. A subclass has a field `name` equal to its registered name."""

    name: str
    version: ClassVar[int | None] = 1  # raise it when the same values would give other networks
    needs: ClassVar[tuple[str, ...]] = ()  # which of `TRAJECTORIES` the study must provide
    networks: int = Field(20, ge=1, le=1_000_000)  # how many to make, of each setting

    @abstractmethod
    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Returns normalised vectors [networks, P] by setting, None for a control without settings.

        Called once per trial. All randomness comes from `draw`; the global random state must not change, nor may the
        material, even if the caller changes what is returned. A control must work with a single original. Raises
        `ValueError` if a trajectory that it `needs` is missing.
        """

    def count(self) -> int:
        """Returns how many vectors `make` returns, of all settings together."""
        return self.networks


class Noise(Control):
    """An original plus Gaussian noise on its z-scored parameters (p-diff's noise baseline)."""

    name: Literal["noise"] = "noise"
    scales: Scales = [0.001, 0.05, 0.15]

    def count(self) -> int:
        """Counts every scale."""
        return self.networks * len(self.scales)

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Adds noise of each scale to randomly chosen originals."""
        chosen_NP = _some(material, self.networks, draw)
        return {scale: chosen_NP + scale * draw.standard_normal(chosen_NP.shape) for scale in self.scales}


class AbsoluteNoise(Control):
    """An original plus Gaussian noise on its raw parameters."""

    name: Literal["absolute_noise"] = "absolute_noise"
    scales: Scales = [0.001, 0.01, 0.1]

    def count(self) -> int:
        """Counts every scale."""
        return self.networks * len(self.scales)

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Adds noise of each scale to randomly chosen originals."""
        chosen_NP, deviation_P = _some(material, self.networks, draw), material.scale.deviation_P
        return {
            scale: chosen_NP + scale / deviation_P * draw.standard_normal(chosen_NP.shape)
            for scale in self.scales
        }


class Gaussian(Control):
    """A Gaussian per coordinate, with the originals' mean and deviation (arXiv 2506.07998)."""

    name: Literal["gaussian"] = "gaussian"

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Draws every parameter independently."""
        return {None: _gaussian(material.originals_KP, self.networks, draw)}


class Average(Control):
    """The average of a few randomly chosen originals (arXiv 2506.07998 takes 16)."""

    name: Literal["average"] = "average"
    of: int = Field(16, ge=2)

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Averages subsets; all of the originals where there are fewer."""
        originals_KP = material.originals_KP
        size = min(self.of, len(originals_KP))
        subsets = [draw.choice(len(originals_KP), size, replace=False) for _ in range(self.networks)]
        return {float(self.of): np.stack([originals_KP[subset].mean(0) for subset in subsets])}


class DecodedGaussian(Control):
    """The decoder applied to a Gaussian with the mean and deviation of each of the originals' latents.

    It shows what the diffusion model adds to the autoencoder.
    """

    name: Literal["decoded_gaussian"] = "decoded_gaussian"

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Draws every number of a latent independently."""
        return {None: material.decode(_gaussian(material.latents_KL, self.networks, draw))}


class FineTuned(Control):
    """Checkpoints of training that resumes from the last of the originals (the paper does not give its recipe).

    Only the varied parameters are trained, on the same data, with the optimiser and batch size that collected the
    originals and a training seed of their own.
    """

    name: Literal["fine_tuned"] = "fine_tuned"
    needs: ClassVar[tuple[str, ...]] = ("fine_tuned",)
    every: int = Field(1, ge=1, le=1_000_000)  # steps from one checkpoint to the next
    learning_rate: float | None = Field(None, gt=0)  # None: that of the originals

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Takes evenly spread checkpoints."""
        return {None: _evenly(material.fine_tuned_FP, self.networks)}


class OtherSeed(Control):
    """Checkpoints of a training run with another seed, collected as the originals are."""

    name: Literal["other_seed"] = "other_seed"
    needs: ClassVar[tuple[str, ...]] = ("other_seed",)

    def make(self, material: Material, draw: np.random.Generator) -> dict[float | None, np.ndarray]:
        """Takes evenly spread checkpoints."""
        return {None: _evenly(material.other_seed_OP, self.networks)}


def _some(material: Material, count: int, draw: np.random.Generator) -> np.ndarray:
    """Returns randomly chosen originals [count, P], with repetition."""
    return material.originals_KP[draw.integers(len(material.originals_KP), size=count)]


def _gaussian(vectors_NP: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Returns draws [count, P] with each coordinate's mean and deviation."""
    standard = draw.standard_normal((count, vectors_NP.shape[1]))
    return (vectors_NP.mean(0) + vectors_NP.std(0) * standard).astype(np.float32)


def _evenly(vectors_NP: np.ndarray | None, count: int) -> np.ndarray:
    """Returns `count` of the vectors, evenly spread up to the last; with repetition where there are fewer."""
    if vectors_NP is None:
        raise ValueError("the study has not provided the trajectory that this control needs")
    places = np.linspace(0, len(vectors_NP) - 1, count) if count > 1 else np.array([len(vectors_NP) - 1])
    return vectors_NP[np.round(places).astype(int)]
