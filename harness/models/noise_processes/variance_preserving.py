"""The variance-preserving noise process with discrete steps: x_t = sqrt(a) x_0 + sqrt(1 - a) epsilon.

Ho et al. 2020. `a`, the share of a sample's variance that is signal, is the cumulative product of 1 - beta. A
diffusers scheduler is read as the DDPM schedule behind it: the betas, and what the network predicts. Plans compute in
float64 without torch; tensors are noised with diffusers' own float32 values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from harness.core.errors import UserError, did_you_mean
from harness.models.noise_processes.process import PLACE, Estimates, NoiseProcess, check_timesteps

if TYPE_CHECKING:
    import torch

SCHEDULES = (
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "sigmoid",
    "laplace",
)  # of diffusers' DDPMScheduler
# Every scheduler that noises as DDPM does, whatever its sampler, with the defaults of its betas where they differ.
STABLE_DIFFUSION: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: Mapping[str, Mapping[str, Any]] = {
    "DDPMScheduler": {},
    "DDPMParallelScheduler": {},
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "DDIMInverseScheduler": {},
    "DEISMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepInverseScheduler": {},
    "DPMSolverSDEScheduler": STABLE_DIFFUSION,
    "DPMSolverSinglestepScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "EulerDiscreteScheduler": {},
    "HeunDiscreteScheduler": STABLE_DIFFUSION,
    "KDPM2AncestralDiscreteScheduler": STABLE_DIFFUSION,
    "KDPM2DiscreteScheduler": STABLE_DIFFUSION,
    "LCMScheduler": {**STABLE_DIFFUSION, "beta_schedule": "scaled_linear"},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {},
    "RePaintScheduler": {},
    "SASolverScheduler": {},
    "TCDScheduler": {**STABLE_DIFFUSION, "beta_schedule": "scaled_linear"},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
    "UniPCMultistepScheduler": {},
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
MOST_BETA = 0.999


@dataclass(frozen=True)
class VariancePreserving(NoiseProcess):
    """The process of a `DDPMScheduler`."""

    config: Mapping[str, Any]  # of a DDPMScheduler: betas, number of steps, prediction type
    _tensors: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    schedulers: ClassVar[Sequence[str]] = tuple(SCHEDULERS)
    version: ClassVar[int] = 2

    @classmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Accepts every scheduler with DDPM's betas: diffusers writes them whichever sampler is configured."""
        flows = found.get("use_flow_sigmas") or found.get("prediction_type") == "flow_prediction"
        continuous = found.get("timestep_type") == "continuous"
        return found.get("_class_name", "DDPMScheduler") in SCHEDULERS and not flows and not continuous

    @classmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Keeps the values that define the schedule; raises `UserError` for invalid ones."""
        given = {**SCHEDULERS[found.get("_class_name", "DDPMScheduler")], **found}
        kept = {
            name: given[name]
            for name in ("beta_schedule", "beta_start", "beta_end", "trained_betas")
            if given.get(name) is not None
        } | {"num_train_timesteps": check_timesteps(found.get("num_train_timesteps", 1000), where)}
        if found.get("prediction_type", "epsilon") != "epsilon":
            kept["prediction_type"] = found["prediction_type"]
        if found.get("rescale_betas_zero_snr"):
            kept["rescale_betas_zero_snr"] = True
        _check(kept, where)
        return cls(kept)

    def in_steps(self, timesteps: int) -> "VariancePreserving":
        """Returns the same process with more or fewer steps: log a is interpolated."""
        left_S = np.concatenate([[0.0], np.log(self._alphas_cumprod_T)])
        places_T = np.linspace(0, self.timesteps, timesteps + 1)
        betas_T = -np.expm1(np.diff(np.interp(places_T, np.arange(len(left_S)), left_S)))
        return VariancePreserving({"num_train_timesteps": timesteps, "trained_betas": betas_T.tolist()})

    @property
    def timesteps(self) -> int:
        """The number of betas."""
        return int(self.config["num_train_timesteps"])

    @cached_property
    def log_snr_T(self) -> np.ndarray:
        """ln(a / (1 - a)), float64 [T]."""
        with np.errstate(divide="ignore"):
            return np.log(self._alphas_cumprod_T) - np.log1p(-self._alphas_cumprod_T)

    @cached_property
    def _alphas_cumprod_T(self) -> np.ndarray:
        return _alphas_cumprod(self.config)

    def _kept(self, steps_B: "torch.Tensor | int", like_B: "torch.Tensor") -> "torch.Tensor":
        """Returns `a` at steps, in the dtype of a batch and broadcastable to it, from diffusers' float32 values."""
        from diffusers import DDPMScheduler

        if like_B.device not in self._tensors:
            scheduler = DDPMScheduler.from_config(dict(self.config))
            self._tensors[like_B.device] = scheduler.alphas_cumprod.to(like_B.device)
        kept = self._tensors[like_B.device][steps_B].to(like_B.dtype)
        return kept.reshape(-1, *[1] * (like_B.ndim - 1))

    def noised(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns sqrt(a) x_0 + sqrt(1 - a) epsilon (Ho et al. 2020, equation 4)."""
        a_B = self._kept(steps_B, x_B)
        return a_B**0.5 * x_B + (1 - a_B) ** 0.5 * epsilon_B

    def target(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns the noise, the clean sample, or v = sqrt(a) epsilon - sqrt(1 - a) x_0 (Salimans and Ho 2022)."""
        kind = self._predicts
        if kind == "epsilon":
            return epsilon_B
        if kind == "sample":
            return x_B
        a_B = self._kept(steps_B, x_B)
        return a_B.sqrt() * epsilon_B - (1 - a_B).sqrt() * x_B

    def estimates(
        self, predicted_B: "torch.Tensor", noised_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> Estimates:
        """Returns x_0 and epsilon, of which one follows from the other (Ho et al. 2020, equation 15).

        v gives both by a rotation (Salimans and Ho 2022, appendix D), also where no signal is left.
        """
        a_B = self._kept(steps_B, noised_B)
        signal_B, noise_B = a_B.sqrt(), (1 - a_B).sqrt()
        if self._predicts == "v_prediction":
            return Estimates(
                signal_B * noised_B - noise_B * predicted_B, signal_B * predicted_B + noise_B * noised_B
            )
        if self._predicts == "sample":
            return Estimates(predicted_B, (noised_B - signal_B * predicted_B) / noise_B)
        return Estimates((noised_B - noise_B * predicted_B) / signal_B, predicted_B)

    @property
    def noisiest(self) -> int:
        """The last step, where v and samples are informative without any signal, as predicted noise is not."""
        return super().noisiest if self._predicts == "epsilon" else self.timesteps - 1

    @property
    def _predicts(self) -> str:
        return str(self.config.get("prediction_type", "epsilon"))

    def advance(
        self,
        noised_B: "torch.Tensor",
        clean_B: "torch.Tensor",
        step: int,
        following: int | None,
        fresh_B: "torch.Tensor | None",
    ) -> "torch.Tensor":
        """Takes a step of DDIM (Song et al. 2021, equation 12).

        Without `fresh_B`, σ = 0; with it, σ is equation 16 at η = 1: the ancestral step of Ho et al. 2020 with the
        smaller variance.
        """
        a, b = (self._kept_at(place) for place in (step, following))
        variance = (1 - b) / (1 - a) * (1 - a / b) if fresh_B is not None else 0 * a
        epsilon_B = (noised_B - float(a.sqrt()) * clean_B) / float((1 - a).sqrt())
        direction = float((1 - b - variance).clamp_min(0).sqrt())
        mean_B = float(b.sqrt()) * clean_B + direction * epsilon_B
        return mean_B if fresh_B is None else mean_B + float(variance.sqrt()) * fresh_B

    def _kept_at(self, step: int | None) -> "torch.Tensor":
        """Returns `a` at one step, float64 [1] on the CPU; 1 for the clean sample."""
        import torch

        one = torch.ones(1)
        return one.double() if step is None else self._kept(step, one).double()

    def save(self, folder: Path) -> None:
        """Writes it as a `DDPMScheduler`."""
        from diffusers import DDPMScheduler

        DDPMScheduler.from_config(dict(self.config)).save_pretrained(folder / PLACE.parent)


def _check(scheduler: Mapping[str, Any], where: str) -> None:
    steps, kind = scheduler["num_train_timesteps"], scheduler.get("beta_schedule", "linear")
    if kind not in SCHEDULES:
        raise UserError(f"{where}: beta_schedule = {kind!r}: expected one of {', '.join(SCHEDULES)}")
    for name in ("beta_start", "beta_end"):
        value = scheduler.get(name, 0.01)
        if not isinstance(value, float | int) or not 0 < value < 1:
            raise UserError(f"{where}: {name} = {value!r}: expected a number between 0 and 1")
    betas = scheduler.get("trained_betas", [0.01] * steps)
    if (
        not isinstance(betas, list)
        or len(betas) != steps
        or not all(isinstance(one, float | int) and 0 < one < 1 for one in betas)
    ):
        raise UserError(f"{where}: trained_betas: expected {steps} numbers between 0 and 1, one per timestep")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(
            f"{where}: prediction_type = {prediction!r} is not supported; {did_you_mean(prediction, PREDICTIONS)}"
        )


def _alphas_cumprod(scheduler: Mapping[str, Any]) -> np.ndarray:
    """Returns the product of 1 - beta up to each timestep [T], float64 (Ho et al. 2020, equation 4)."""
    steps = scheduler["num_train_timesteps"]
    kind = scheduler.get("beta_schedule", "linear")
    low, high = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    if "trained_betas" in scheduler:
        betas_T = np.array(scheduler["trained_betas"], float)
    elif kind == "linear":
        betas_T = np.linspace(low, high, steps)
    elif kind == "scaled_linear":
        betas_T = np.linspace(low**0.5, high**0.5, steps) ** 2
    elif kind == "sigmoid":
        betas_T = (high - low) / (1 + np.exp(-np.linspace(-6, 6, steps))) + low
    else:
        left = _cosine if kind == "squaredcos_cap_v2" else _laplace
        edges = left(np.arange(steps + 1) / steps)
        betas_T = np.minimum(1 - edges[1:] / edges[:-1], MOST_BETA)
    alphas_T = np.cumprod(1 - betas_T)
    if scheduler.get("rescale_betas_zero_snr"):  # Lin et al. 2023, algorithm 1
        roots_T = np.sqrt(alphas_T)
        alphas_T = ((roots_T - roots_T[-1]) * roots_T[0] / (roots_T[0] - roots_T[-1])) ** 2
    return alphas_T


def _cosine(time: np.ndarray) -> np.ndarray:
    """The signal's share of the variance at a fraction of T (Nichol and Dhariwal 2021, equation 17)."""
    return np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2


def _laplace(time: np.ndarray) -> np.ndarray:
    """The same for Laplace-distributed log-SNR, as in diffusers (Hang et al. 2024)."""
    ratio = np.exp(-0.5 * np.copysign(1.0, 0.5 - time) * np.log(1 - 2 * np.abs(0.5 - time) + 1e-6))
    return np.sqrt(ratio / (1 + ratio))
