"""The noise schedule of a backbone without torch: what is left of the image at each timestep, and noise levels.

A scheduler of diffusers is read as the DDPM schedule that it samples from: the betas, and what the network predicts.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainValidator, ValidationError

from harness.core.config import Config
from harness.core.errors import UserError, did_you_mean

SCHEDULES = (
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "sigmoid",
    "laplace",
)  # of diffusers' DDPMScheduler
PREDICTIONS = ("epsilon", "v_prediction", "sample")
MOST_BETA = 0.999


class NoiseLevel(Config):
    """A timestep by what it does: exactly one of these, brought to the nearest step of the schedule."""

    fraction: float | None = Field(None, ge=0, le=1)  # of T
    sigma: float | None = Field(None, gt=0)  # noise over signal, sqrt(1 / a - 1)
    log_snr: float | None = None  # ln(a / (1 - a))

    @property
    def given(self) -> dict[str, float]:
        """What was given, by name."""
        values = {"fraction": self.fraction, "sigma": self.sigma, "log_snr": self.log_snr}
        return {name: value for name, value in values.items() if value is not None}


def _timestep(value: Any) -> int | NoiseLevel:
    """Reads one entry of a list of timesteps."""
    if isinstance(value, NoiseLevel) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if not isinstance(value, dict) or len(value) != 1 or None in value.values():
        raise ValueError("a timestep is a step, or one of {fraction: 0.09}, {sigma: 0.3}, {log_snr: 2.0}")
    ((name, number),) = value.items()
    if name not in NoiseLevel.model_fields:
        raise ValueError(f"unknown noise level {name!r}; {did_you_mean(name, NoiseLevel.model_fields)}")
    try:
        return NoiseLevel.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {number!r}: {error.errors()[0]['msg']}") from None


Timestep = Annotated[int | NoiseLevel, PlainValidator(_timestep)]  # in a list of an experiment


def read_scheduler(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns what a diffusers scheduler_config.json says of the DDPM schedule; {} is DDPM's own.

    Raises `UserError` for a scheduler that is no such schedule.
    """
    kind = str(found.get("_class_name", "DDPMScheduler"))
    has_betas = (
        kind == "DDPMScheduler" or "beta_schedule" in found
    )  # diffusers writes every setting of a scheduler
    flows = found.get("use_flow_sigmas") or found.get("prediction_type") == "flow_prediction"
    if not has_betas or flows:
        raise UserError(
            f"{where}: a {kind} does not fit: its noise levels are no DDPM schedule; give the scheduler that the "
            "model was trained with, one with betas (DDPM, DDIM, PNDM, EulerDiscrete, DPMSolverMultistep)"
        )
    kept = {
        name: found[name]
        for name in ("beta_schedule", "beta_start", "beta_end", "trained_betas")
        if found.get(name) is not None
    } | {"num_train_timesteps": found.get("num_train_timesteps", 1000)}
    if found.get("prediction_type", "epsilon") != "epsilon":
        kept["prediction_type"] = found["prediction_type"]
    if found.get("rescale_betas_zero_snr"):
        kept["rescale_betas_zero_snr"] = True
    _check(kept, where)
    return kept


def _check(scheduler: Mapping[str, Any], where: str) -> None:
    steps, kind = scheduler["num_train_timesteps"], scheduler.get("beta_schedule", "linear")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserError(f"{where}: num_train_timesteps = {steps!r}: expected a positive integer")
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
        raise UserError(f"{where}: trained_betas: expected {steps} numbers between 0 and 1, one a timestep")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(
            f"{where}: prediction_type = {prediction!r} does not fit; {did_you_mean(prediction, PREDICTIONS)}"
        )


def alphas_cumprod(scheduler: Mapping[str, Any]) -> np.ndarray:
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
    """What is left of the image at a share of T (Nichol and Dhariwal 2021, equation 17)."""
    return np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2


def _laplace(time: np.ndarray) -> np.ndarray:
    """The same for Laplace-distributed log-SNR, as diffusers has it (Hang et al. 2024)."""
    ratio = np.exp(-0.5 * np.copysign(1.0, 0.5 - time) * np.log(1 - 2 * np.abs(0.5 - time) + 1e-6))
    return np.sqrt(ratio / (1 + ratio))


def log_snr(alphas_T: np.ndarray) -> np.ndarray:
    """Returns ln(a / (1 - a)) [T]: minus infinity where nothing is left of the image."""
    with np.errstate(divide="ignore"):
        return np.log(alphas_T) - np.log1p(-alphas_T)


def nearest_step(level: NoiseLevel, alphas_T: np.ndarray, where: str) -> int:
    """Returns the timestep nearest to a noise level, in log-SNR; raises `UserError` beyond the schedule's ends."""
    ((name, value),) = level.given.items()
    last = len(alphas_T) - 1
    if name == "fraction":
        return min(round(value * len(alphas_T)), last)
    levels_T = log_snr(alphas_T)
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
