"""The contract of a noise process, and how the process of a scheduler_config.json is found. No torch at import.

A process has T steps, from 0 (least noise) to T - 1 (most). A step is an index on this grid, whatever the process
calls its time: experiments name steps, noise is addressed by them, and rows show them. The network's time input at a
step (`time`) is up to the process and need not be an integer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
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
        "flow_matching": "harness.models.noise_processes.flow_matching:FlowMatching",
        "edm": "harness.models.noise_processes.edm:EDM",
        "continuous_euler": "harness.models.noise_processes.edm:ContinuousEuler",
        "consistency": "harness.models.noise_processes.edm:Consistency",
    },
)
SAMPLING = Code("sampling", 1)  # the loop, `harness.models.sampling`
SIGNIFICANT = 6  # digits of a noise level in tables: further ones differ between machines
EXAMPLES = ("DDPMScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler")
VIDEO, TOKENS, AUDIO = "is for video models", "noises tokens instead of images", "is for audio models"
# Why a scheduler of diffusers is refused; of others it is only known that they are.
UNREAD = {
    name: f"a {name} {why}"
    for name, why in {
        "AmusedScheduler": TOKENS,
        "BlockRefinementScheduler": TOKENS,
        "CogVideoXDDIMScheduler": VIDEO,
        "CogVideoXDPMScheduler": VIDEO,
        "CosineDPMSolverMultistepScheduler": AUDIO,
        "DDPMWuerstchenScheduler": "has continuous time and no steps",
        "DiscreteDDIMScheduler": TOKENS,
        "EntropyBoundScheduler": TOKENS,
        "FlowMapEulerDiscreteScheduler": "is for networks that are told a second time, where their step ends",
        "HeliosDMDScheduler": VIDEO,
        "HeliosScheduler": VIDEO,
        "IPNDMScheduler": AUDIO,
        "KarrasVeScheduler": "has noise levels but no number of steps",
        "LTXEulerAncestralRFScheduler": VIDEO,
        "MiniMaxH3Scheduler": VIDEO,
        "PiflowScheduler": "is for networks that predict a policy instead of a velocity",
        "RFD4ProteinaScheduler": "is for proteins",
        "ScoreSdeVeScheduler": "is for networks that read images in [0, 1] instead of [-1, 1]",
        "VQDiffusionScheduler": TOKENS,
    }.items()
}
PLACE = Path("scheduler", "scheduler_config.json")  # in a pipeline's folder


class Estimates(NamedTuple):
    """The clean sample and the noise implied by a network's prediction, each [B, ...] like the noised sample."""

    clean: "torch.Tensor"
    noise: "torch.Tensor"


class NoiseProcess(ABC):
    """How clean samples become Gaussian noise, and back.

    At every step a noised sample is x_t = signal(t) x_0 + noise(t) epsilon; samples are images [B, C, H, W], latents
    [B, L] or anything else with a leading batch dimension. No code outside a process knows its coefficients.

    The methods from `time` on operate on tensors; plans call all others, which must not import torch.
    """

    version: ClassVar[int] = 1  # raise it if the same configuration now gives other numbers
    schedulers: ClassVar[Sequence[str]] = ()  # classes of diffusers that it reads, for messages
    config: Mapping[
        str, Any
    ]  # JSON-like; `process_of` turns it into the same process; part of a backbone's key

    @classmethod
    @abstractmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Returns whether a scheduler's configuration belongs to this process; at most one process may claim it."""

    @classmethod
    @abstractmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Returns the process of a configuration for which `reads` is true.

        Raises `UserError`, beginning with `where`, for values that contradict each other or are out of range.
        """

    @property
    @abstractmethod
    def timesteps(self) -> int:
        """T, the number of steps."""

    @property
    @abstractmethod
    def log_snr_T(self) -> np.ndarray:
        """ln(signal² / noise²) at every step, float64 [T], decreasing; minus infinity where no signal is left."""

    def sigma(self, step: int) -> float | None:
        """The noise-to-signal ratio at a step, as tables show it; None where no signal is left."""
        level = self.log_snr_T[step]
        return None if np.isneginf(level) else _rounded(np.exp(-level / 2))

    def log_snr(self, step: int) -> float | None:
        """ln(signal² / noise²) at a step, as tables show it; None where no signal, or no noise, is left."""
        level = self.log_snr_T[step]
        return _rounded(level) if np.isfinite(level) else None

    def step(self, value: int | NoiseLevel, where: str) -> int:
        """Returns a step as it is, or the step nearest to a noise level; raises `UserError` if out of range."""
        if isinstance(value, NoiseLevel):
            return self._nearest(value, where)
        if not 0 <= value < self.timesteps:
            raise UserError(f"{where}: {value} is not between 0 and {self.timesteps - 1}")
        return value

    def steps(self, values: Sequence[int | NoiseLevel], where: str) -> list[int]:
        """Returns the steps that a setting names, in order; raises `UserError` for duplicates."""
        found: list[int] = []
        for value in values:
            step = self.step(value, where)
            if step in found:
                level = f"{value.given} is step {step}, which" if isinstance(value, NoiseLevel) else f"{step}"
                raise UserError(f"{where}: {level} is given twice")
            found.append(step)
        return found

    def _nearest(self, level: NoiseLevel, where: str) -> int:
        """Returns the step nearest to a noise level in log-SNR; raises `UserError` if out of range."""
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
                "the range of this backbone's schedule"
            )
        return int(np.argmin(np.abs(levels_T - wanted)))

    def spaced(self, steps: int) -> list[int]:
        """Returns a sampler's steps, evenly spaced from the noisiest usable one down to 0.

        There are `steps` of them, or as many as the process has.
        """
        return spaced(self.noisiest + 1, min(steps, self.noisiest + 1))

    @property
    def noisiest(self) -> int:
        """The step where sampling starts: the last with any signal, as predicted noise is uninformative without it.

        Override it if predictions determine the clean sample at every step.
        """
        return int((self.log_snr_T > -np.inf).sum()) - 1

    def time(self, steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns the network's time input at steps (int64 [B]); the steps themselves unless overridden."""
        return steps_B

    def scaled(self, noised_B: "torch.Tensor", steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns the network's input for noised samples: the samples themselves unless overridden.

        Whoever calls the network scales, once; `target`, `estimates` and `advance` take unscaled samples.
        """
        return noised_B

    def start(self, epsilon_B: "torch.Tensor") -> "torch.Tensor":
        """Returns the sampler's first state, at `noisiest`: standard normal noise itself unless overridden."""
        return epsilon_B

    @abstractmethod
    def noised(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns clean samples, each noised to its step with standard normal `epsilon_B` of the same shape."""

    @abstractmethod
    def target(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns the training target for the input `noised(x_B, epsilon_B, steps_B)`."""

    @abstractmethod
    def estimates(
        self, predicted_B: "torch.Tensor", noised_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> Estimates:
        """Returns the clean samples and the noise that a network's prediction implies.

        Inverts `target`, up to rounding.
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
        """Returns the sampler's state at step `following`, after `step`; None means the clean sample.

        `clean_B` is the estimate at `step`, possibly clipped; the noise is recomputed from it and `noised_B`. The
        step is deterministic without `fresh_B`, ancestral with it (standard normal).
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes `PLACE` in a pipeline's folder so that diffusers and `load_process` can read it."""


def spaced(timesteps: int, steps: int) -> list[int]:
    """Returns `steps` numbers evenly spaced from `timesteps` - 1 down to 0."""
    import torch

    return [round(place) for place in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]


def process_of(found: Mapping[str, Any], where: str = "scheduler_config.json") -> NoiseProcess:
    """Returns the process that a diffusers scheduler_config.json describes; {} is the default of DDPM.

    Raises `UserError` for a scheduler that no known process reads.
    """
    kind, known = found.get("_class_name", "DDPMScheduler"), list[str]()
    if not isinstance(kind, str):
        raise UserError(
            f"{where}: _class_name = {kind!r}: expected the name of a scheduler, such as {EXAMPLES[0]}"
        )
    for name in NOISE_PROCESSES.names():
        process: type[NoiseProcess] = NOISE_PROCESSES.load(name)
        if process.reads(found):
            return process.from_config(found, where)
        known += process.schedulers
    if kind in known:  # one process reads it, but not as it is set
        raise UserError(f"{where}: a {kind} with these settings is not supported")
    near = get_close_matches(kind, known, 1, 0.8)
    raise UserError(
        f"{where}: {UNREAD.get(kind, f'{kind[:80]} is not supported')}; "
        + (f"did you mean {near[0]}? " if near and kind not in UNREAD else "")
        + f"give the scheduler that the model was trained with, such as {', '.join(EXAMPLES)}"
    )


def check_timesteps(value: Any, where: str) -> int:
    """Returns a scheduler's number of steps; raises `UserError`, beginning with `where`, for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: num_train_timesteps = {value!r}: expected a positive integer")
    return value


def load_process(folder: Path) -> NoiseProcess:
    """Reads what `save` wrote."""
    return process_of(read_json(folder / PLACE), str(folder / PLACE))


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT}g}")
