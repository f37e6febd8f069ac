"""Noise processes in σ: x_t = x_0 + σ ε, with a preconditioned network F. No torch at import.

D(x, σ) = c_skip x + c_out F(c_in x, c_noise) is the clean sample (Karras et al. 2022, "Elucidating the Design
Space of Diffusion-Based Generative Models", equation 7 and table 1). The grid has the T noise levels to which
diffusers' scheduler is set by `set_timesteps(num_train_timesteps)`, in ascending order.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from harness.core.errors import UserError
from harness.models.noise_processes.process import PLACE, Estimates, check_timesteps
from harness.models.noise_processes.tabulated import Tabulated, at
from harness.models.noise_processes.variance_preserving import VariancePreserving

if TYPE_CHECKING:
    import torch

EDM_EULER = "EDMEulerScheduler"
CONTINUOUS = "EulerDiscreteScheduler"
CONSISTENCY = "CMStochasticIterativeScheduler"
RHO = 7.0  # of Karras et al. 2022, equation 5
LARGEST = (2**24 - 1) ** 0.5  # σ where no signal is left, to diffusers' EulerDiscreteScheduler


class Preconditioning(NamedTuple):
    """Coefficients at every step, each float64 [T]."""

    c_in: np.ndarray
    c_skip: np.ndarray
    c_out: np.ndarray
    c_noise: np.ndarray  # the network's time


class Preconditioned(Tabulated):
    """Base of the processes in σ; `config` is that of a diffusers scheduler, its class included."""

    config: Mapping[str, Any]

    @property
    @abstractmethod
    def sigmas_T(self) -> np.ndarray:
        """The noise levels, float64 [T], ascending."""

    @property
    @abstractmethod
    def preconditioning(self) -> Preconditioning:
        """The network's coefficients."""

    @property
    def start_sigma(self) -> float:
        """The standard deviation of a sampler's first state, in which the data's variance may be counted as 1."""
        return float(np.hypot(self.noise_T[-1], 1))

    @property
    def noise_T(self) -> np.ndarray:
        """σ."""
        return self.sigmas_T

    @property
    def signal_T(self) -> np.ndarray:
        """1: the signal is not scaled."""
        return np.ones_like(self.sigmas_T)

    def time(self, steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns c_noise, float32 [B]."""
        return at(self.preconditioning.c_noise, steps_B)

    def scaled(self, noised_B: "torch.Tensor", steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns c_in x."""
        return at(self.preconditioning.c_in, steps_B, noised_B) * noised_B

    def start(self, epsilon_B: "torch.Tensor") -> "torch.Tensor":
        """Returns noise of the standard deviation with which diffusers' scheduler starts."""
        return self.start_sigma * epsilon_B

    def target(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns (x_0 - c_skip x) / c_out; zeros where c_out is 0, as no prediction matters there."""
        _, c_skip, c_out, _ = self.preconditioning
        inverse = np.divide(1, c_out, out=np.zeros_like(c_out), where=c_out != 0)
        clean_B = at((1 - c_skip) * inverse, steps_B, x_B) * x_B
        return clean_B - at(c_skip * self.sigmas_T * inverse, steps_B, x_B) * epsilon_B

    def estimates(
        self, predicted_B: "torch.Tensor", noised_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> Estimates:
        """Returns D = c_skip x + c_out F, and (x - D) / σ."""
        _, c_skip, c_out, _ = self.preconditioning
        clean_B = at(c_skip, steps_B, noised_B) * noised_B + at(c_out, steps_B, noised_B) * predicted_B
        return Estimates(clean_B, (noised_B - clean_B) / at(self.sigmas_T, steps_B, noised_B))

    def save(self, folder: Path) -> None:
        """Writes the scheduler."""
        import diffusers

        scheduler = getattr(diffusers, self.config["_class_name"])
        scheduler.from_config(dict(self.config)).save_pretrained(folder / PLACE.parent)


@dataclass(frozen=True)
class EDM(Preconditioned):
    """The process of an `EDMEulerScheduler`: EDM (epsilon), CosXL (v), Playground 2.5."""

    config: Mapping[str, Any]
    schedulers: ClassVar[Sequence[str]] = (EDM_EULER, "EDMDPMSolverMultistepScheduler")

    @classmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Accepts both EDM schedulers of diffusers."""
        return found.get("_class_name") in cls.schedulers

    @classmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Keeps range and spacing of the noise levels, the data's deviation, and what is predicted."""
        kept = {
            "_class_name": EDM_EULER,
            "num_train_timesteps": check_timesteps(found.get("num_train_timesteps", 1000), where),
            "sigma_min": found.get("sigma_min", 0.002),
            "sigma_max": found.get("sigma_max", 80.0),
            "sigma_data": found.get("sigma_data", 0.5),
            "rho": found.get("rho", RHO),
            "sigma_schedule": found.get("sigma_schedule", "karras"),
            "prediction_type": found.get("prediction_type", "epsilon"),
        }
        _check_sigmas(kept, where)
        _check_choice(kept, "sigma_schedule", ("karras", "exponential"), where)
        _check_choice(kept, "prediction_type", ("epsilon", "v_prediction"), where)
        return cls(kept)

    @cached_property
    def sigmas_T(self) -> np.ndarray:
        """Spaced as in equation 5 of Karras et al., or evenly in ln σ."""
        low, high, steps = (self.config[name] for name in ("sigma_min", "sigma_max", "num_train_timesteps"))
        if self.config["sigma_schedule"] == "exponential":
            return np.geomspace(low, high, steps)
        return _karras(low, high, steps, self.config["rho"])

    @cached_property
    def preconditioning(self) -> Preconditioning:
        """That of table 1 of Karras et al.; a network that predicts v has the opposite sign."""
        sign = 1 if self.config["prediction_type"] == "epsilon" else -1
        return _preconditioning(self.sigmas_T, self.config["sigma_data"], sign)


@dataclass(frozen=True)
class ContinuousEuler(Preconditioned):
    """The process of an `EulerDiscreteScheduler` with `timestep_type: continuous`: EDM with unit variance and v."""

    config: Mapping[str, Any]
    schedulers: ClassVar[Sequence[str]] = ()  # its scheduler is named by `VariancePreserving`

    @classmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Accepts an `EulerDiscreteScheduler` whose network is told σ instead of a step."""
        return found.get("_class_name") == CONTINUOUS and found.get("timestep_type") == "continuous"

    @classmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Keeps betas and the spacing of σ; refuses predictions for which diffusers would tell whole steps."""
        if found.get("prediction_type", "epsilon") != "v_prediction":
            raise UserError(
                f"{where}: timestep_type = 'continuous' with prediction_type = "
                f"{found.get('prediction_type', 'epsilon')!r}: diffusers tells such a network whole steps instead; "
                "set timestep_type to 'discrete' if it was trained so, or prediction_type to 'v_prediction'"
            )
        if found.get("use_beta_sigmas"):
            raise UserError(
                f"{where}: use_beta_sigmas = true with timestep_type = 'continuous' is not supported"
            )
        betas = {**found, "timestep_type": "discrete", "prediction_type": "epsilon"}
        kept = {
            **VariancePreserving.from_config(betas, where).config,
            "_class_name": CONTINUOUS,
            "timestep_type": "continuous",
            "prediction_type": "v_prediction",
            "timestep_spacing": found.get("timestep_spacing", "linspace"),
        }
        for name in ("use_karras_sigmas", "use_exponential_sigmas", "sigma_min", "sigma_max"):
            if found.get(name):
                kept[name] = found[name]
        _check_sigmas(kept, where)
        return cls(kept)

    @cached_property
    def sigmas_T(self) -> np.ndarray:
        """Those of the betas, or as many between their ends (or those given), spaced by Karras or evenly in ln σ."""
        levels_T = VariancePreserving(_betas(self.config)).log_snr_T
        sigmas_T = np.minimum(np.exp(-levels_T / 2), LARGEST)
        ends = (self.config.get("sigma_min", sigmas_T[0]), self.config.get("sigma_max", sigmas_T[-1]))
        if self.config.get("use_karras_sigmas"):
            return _karras(*ends, len(sigmas_T), RHO)
        return np.geomspace(*ends, len(sigmas_T)) if self.config.get("use_exponential_sigmas") else sigmas_T

    @cached_property
    def preconditioning(self) -> Preconditioning:
        """EDM's with a data deviation of 1 and the opposite sign of the prediction."""
        return _preconditioning(self.sigmas_T, 1.0, -1)

    @property
    def start_sigma(self) -> float:
        """As diffusers has it, which depends on the spacing of its steps."""
        if self.config["timestep_spacing"] in ("linspace", "trailing"):
            return float(self.noise_T[-1])
        return super().start_sigma


@dataclass(frozen=True)
class Consistency(Preconditioned):
    """The process of consistency models (Song et al. 2023): EDM's, but at the smallest σ the network does nothing."""

    config: Mapping[str, Any]
    schedulers: ClassVar[Sequence[str]] = (CONSISTENCY,)

    @classmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Accepts diffusers' scheduler of consistency models."""
        return found.get("_class_name") == CONSISTENCY

    @classmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Keeps range and spacing of the noise levels and the data's deviation."""
        kept = {
            "_class_name": CONSISTENCY,
            "num_train_timesteps": check_timesteps(found.get("num_train_timesteps", 40), where),
            "sigma_min": found.get("sigma_min", 0.002),
            "sigma_max": found.get("sigma_max", 80.0),
            "sigma_data": found.get("sigma_data", 0.5),
            "rho": found.get("rho", RHO),
        }
        _check_sigmas(kept, where)
        return cls(kept)

    @cached_property
    def sigmas_T(self) -> np.ndarray:
        """Spaced as in equation 5 of Karras et al."""
        low, high, steps = (self.config[name] for name in ("sigma_min", "sigma_max", "num_train_timesteps"))
        return _karras(low, high, steps, self.config["rho"])

    @cached_property
    def preconditioning(self) -> Preconditioning:
        """That of appendix C of Song et al. 2023; the network's time is 250 ln σ."""
        sigmas_T, data = self.sigmas_T, self.config["sigma_data"]
        beyond_T = sigmas_T - self.config["sigma_min"]
        edm = _preconditioning(sigmas_T, data, 1)
        return Preconditioning(
            edm.c_in,
            data**2 / (beyond_T**2 + data**2),
            beyond_T * data * edm.c_in,
            1000 * edm.c_noise,
        )

    @property
    def start_sigma(self) -> float:
        """The largest σ."""
        return float(self.noise_T[-1])

    def spaced(self, steps: int) -> list[int]:
        """Returns steps as diffusers takes them: every (T // steps)-th from the last."""
        count = min(steps, self.timesteps)
        return [self.timesteps - 1 - place * (self.timesteps // count) for place in range(count)]


def _preconditioning(sigmas_T: np.ndarray, data: float, sign: int) -> Preconditioning:
    """Returns table 1 of Karras et al. 2022 for data of deviation `data`."""
    c_in = 1 / np.hypot(sigmas_T, data)
    return Preconditioning(c_in, (data * c_in) ** 2, sign * sigmas_T * data * c_in, np.log(sigmas_T) / 4)


def _karras(low: float, high: float, steps: int, rho: float) -> np.ndarray:
    """Returns noise levels in ascending order, evenly spaced in σ^(1/rho), float64 [T]."""
    sigmas_T: np.ndarray = np.linspace(low ** (1 / rho), high ** (1 / rho), steps) ** rho
    sigmas_T[0] = low
    return sigmas_T


def _betas(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas")
    return {name: config[name] for name in (*names, "rescale_betas_zero_snr") if name in config}


def _check_sigmas(kept: Mapping[str, Any], where: str) -> None:
    for name in ("sigma_min", "sigma_max", "sigma_data", "rho"):
        value = kept.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise UserError(f"{where}: {name} = {value!r}: expected a positive number")
    if "sigma_min" in kept and "sigma_max" in kept and kept["sigma_min"] >= kept["sigma_max"]:
        raise UserError(
            f"{where}: sigma_min = {kept['sigma_min']} is not below sigma_max = {kept['sigma_max']}"
        )


def _check_choice(kept: Mapping[str, Any], name: str, known: Sequence[str], where: str) -> None:
    if kept[name] not in known:
        raise UserError(f"{where}: {name} = {kept[name]!r}: expected {' or '.join(map(repr, known))}")
