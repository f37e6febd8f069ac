"""The contract of a noise process, and how one is found for a scheduler_config.json. No torch at import.

A process has T steps, numbered from 0, the least noise, to T - 1, the most. A step is a place on this grid, whatever
the process calls its time: experiments name steps, noise draws are addressed by them, rows show them. What the
network is told at a step is the process's own affair (`time`), a number that need not be an integer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.registry import Registry
from harness.core.stages import Code
from harness.models.noise_processes.levels import NoiseLevel

if TYPE_CHECKING:
    import torch

NOISE_PROCESSES = Registry(
    "noise process",
    {
        "variance_preserving": "harness.models.noise_processes.variance_preserving:VariancePreserving",
    },
)
SAMPLING = Code("sampling", 1)  # the loop, `harness.models.sampling`
SIGNIFICANT = 6  # digits of a noise level in tables: the rest differs between machines
PLACE = Path("scheduler", "scheduler_config.json")  # in the folder of a pipeline


class Estimates(NamedTuple):
    """What a network's prediction says of a noised sample, each in its shape [B, ...]."""

    clean: "torch.Tensor"
    noise: "torch.Tensor"


class NoiseProcess(ABC):
    """How clean samples become Gaussian noise, and the way back.

    At every step a noised sample is x_t = signal(t) x_0 + noise(t) epsilon; samples are images [B, C, H, W], latents
    [B, L] or anything else with a batch in front. No code outside a process knows its coefficients.

    The methods from `time` on work on tensors; all others are called by plans and must not import torch.
    """

    version: ClassVar[int] = 1  # raise it when the same configuration would give other numbers
    config: Mapping[
        str, Any
    ]  # JSON-like: `process_of` makes the same process of it; part of a backbone's key

    @classmethod
    @abstractmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Says whether a scheduler's configuration is one of this process; at most one process may say so."""

    @classmethod
    @abstractmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Returns the process of a configuration that it `reads`.

        Raises `UserError`, beginning with `where`, for values that contradict each other or are out of range.
        """

    @property
    @abstractmethod
    def timesteps(self) -> int:
        """T, the number of steps."""

    @property
    @abstractmethod
    def log_snr_T(self) -> np.ndarray:
        """ln(signal² / noise²) at every step, float64 [T], falling; minus infinity where no signal is left."""

    def sigma(self, step: int) -> float | None:
        """Noise over signal at a step, as tables show it; None where no signal is left."""
        level = self.log_snr_T[step]
        return None if np.isneginf(level) else _rounded(np.exp(-level / 2))

    def log_snr(self, step: int) -> float | None:
        """ln(signal² / noise²) at a step, as tables show it; None where no signal, or no noise, is left."""
        level = self.log_snr_T[step]
        return _rounded(level) if np.isfinite(level) else None

    def step(self, value: int | NoiseLevel, where: str) -> int:
        """Returns a step as given, or the one nearest to a noise level; raises `UserError` out of range."""
        if isinstance(value, NoiseLevel):
            return self._nearest(value, where)
        if not 0 <= value < self.timesteps:
            raise UserError(f"{where}: {value} is not between 0 and {self.timesteps - 1}, where T ends")
        return value

    def steps(self, values: Sequence[int | NoiseLevel], where: str) -> list[int]:
        """Returns the steps that a setting names, in its order; raises `UserError` for one named twice."""
        found: list[int] = []
        for value in values:
            step = self.step(value, where)
            if step in found:
                level = f"{value.given} is step {step}, which" if isinstance(value, NoiseLevel) else f"{step}"
                raise UserError(f"{where}: {level} is given twice")
            found.append(step)
        return found

    def _nearest(self, level: NoiseLevel, where: str) -> int:
        """Returns the step nearest to a noise level, in log-SNR; raises `UserError` beyond the ends."""
        ((name, value),) = level.given.items()
        last = self.timesteps - 1
        if name == "fraction":
            return min(round(value * self.timesteps), last)
        levels_T = self.log_snr_T
        wanted = -2 * float(np.log(value)) if name == "sigma" else value
        half_step = abs(levels_T[0] - levels_T[min(1, last)]) / 2
        if not levels_T[-1] - half_step <= wanted <= levels_T[0] + half_step:
            ends = levels_T[[0, -1]]
            ends = np.exp(-ends / 2) if name == "sigma" else ends
            raise UserError(
                f"{where}: {name} {value:g} is not between {min(ends):.3g} and {max(ends):.3g}, "
                "what this backbone's schedule reaches"
            )
        return int(np.argmin(np.abs(levels_T - wanted)))

    def spaced(self, steps: int) -> list[int]:
        """Returns the steps that a sampler takes, evenly spread from the noisiest that it can start at down to 0.

        At most `steps`, and as many where there are that many.
        """
        return spaced(self.noisiest + 1, min(steps, self.noisiest + 1))

    @property
    def noisiest(self) -> int:
        """The step that sampling starts at: the last with any signal, for without it predicted noise says nothing.

        Overridden where a prediction tells of the clean sample at every step.
        """
        return int((self.log_snr_T > -np.inf).sum()) - 1

    def time(self, steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns what the network is told at steps (int64 [B]); the steps themselves unless overridden."""
        return steps_B

    @abstractmethod
    def noised(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns clean samples noised to a step each, with standard normal `epsilon_B` of their shape."""

    @abstractmethod
    def target(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns what a network is trained to predict of `noised(x_B, epsilon_B, steps_B)`."""

    @abstractmethod
    def estimates(
        self, predicted_B: "torch.Tensor", noised_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> Estimates:
        """Returns the clean samples and the noise that a network's prediction stands for.

        Of `target` they are those that it was made of, up to rounding.
        """

    @abstractmethod
    def advance(
        self,
        noised_B: "torch.Tensor",
        clean_B: "torch.Tensor",
        step: int,
        following: int | None,
        fresh_B: "torch.Tensor | None",
    ) -> "torch.Tensor":
        """Returns what a sampler has at step `following`, after `step`; None is the clean sample.

        `clean_B` is the estimate at `step`, clipped as it may be: the noise that it leaves in `noised_B` counts.
        Without `fresh_B` the way is deterministic, with it (standard normal) ancestral.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes `PLACE` in the folder of a pipeline so that diffusers and `load_process` read it."""


def spaced(timesteps: int, steps: int) -> list[int]:
    """Returns `steps` of `timesteps` numbers spread evenly from the last down to 0."""
    import torch

    return [round(place) for place in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]


def process_of(found: Mapping[str, Any], where: str = "scheduler_config.json") -> NoiseProcess:
    """Returns the process that a diffusers scheduler_config.json describes; {} is DDPM's own.

    Raises `UserError` for a scheduler of which no known process can be read.
    """
    for name in NOISE_PROCESSES.names():
        process: type[NoiseProcess] = NOISE_PROCESSES.load(name)
        if process.reads(found):
            return process.from_config(found, where)
    kind = found.get("_class_name", "DDPMScheduler")
    raise UserError(
        f"{where}: a {kind} does not fit: its noise levels are no DDPM schedule; give the scheduler that the "
        "model was trained with, one with betas (DDPM, DDIM, PNDM, EulerDiscrete, DPMSolverMultistep)"
    )


def load_process(folder: Path) -> NoiseProcess:
    """Reads what `save` wrote."""
    return process_of(read_json(folder / PLACE), str(folder / PLACE))


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")
