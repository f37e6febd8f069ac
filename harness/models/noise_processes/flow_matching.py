"""Flow matching on straight lines (rectified flow): x_t = (1 - σ) x_0 + σ ε, and the network predicts v = ε - x_0.

Lipman et al. 2023; Liu et al. 2023; Esser et al. 2024 (Stable Diffusion 3). The grid is the plain one of training,
σ = (step + 1) / T. A scheduler's shift, its dynamic shift by the number of image tokens, and its Karras,
exponential or beta spacing say only which steps a sampler takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from harness.core.errors import UserError
from harness.models.noise_processes.process import PLACE, Estimates, check_timesteps
from harness.models.noise_processes.tabulated import Tabulated, at

if TYPE_CHECKING:
    import torch

EULER = "FlowMatchEulerDiscreteScheduler"
FLOWS = (EULER, "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
# TrigFlow, as Sana-Sprint uses it: at σ = sin t / (cos t + sin t) its network reads and predicts what a flow's does.
TRIGONOMETRIC = "SCMScheduler"
SOLVERS = (  # with betas, or flows if `use_flow_sigmas`
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
DEFAULTS: Mapping[str, Any] = {  # of a FlowMatchEulerDiscreteScheduler
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    **dict.fromkeys(SPACINGS, False),
}
TOKENS, EVEN = "_image_seq_len", "_even_sigmas"  # ours; diffusers ignores names with a leading underscore


@dataclass(frozen=True)
class FlowMatching(Tabulated):
    """The process of a `FlowMatchEulerDiscreteScheduler`."""

    config: Mapping[str, Any]  # of that scheduler, without its defaults; and what `spaced_for` adds
    schedulers: ClassVar[Sequence[str]] = (*FLOWS, TRIGONOMETRIC)

    @classmethod
    def reads(cls, found: Mapping[str, Any]) -> bool:
        """Accepts flow-matching schedulers, and solvers that are set to flows."""
        kind = found.get("_class_name")
        flows = found.get("use_flow_sigmas") or found.get("prediction_type") == "flow_prediction"
        return kind in cls.schedulers or (kind in SOLVERS and bool(flows))

    @classmethod
    def from_config(cls, found: Mapping[str, Any], where: str) -> Self:
        """Keeps the number of steps and the sampler's spacing, as a `FlowMatchEulerDiscreteScheduler` names them."""
        given = dict(found)
        if found["_class_name"] in SOLVERS:
            _check_solver(found, where)
            given["shift"] = found.get("flow_shift", 1.0)
        if found["_class_name"] == TRIGONOMETRIC and found.get("prediction_type", "trigflow") != "trigflow":
            raise UserError(
                f"{where}: prediction_type = {found['prediction_type']!r}: an {TRIGONOMETRIC} predicts 'trigflow'"
            )
        if found.get("invert_sigmas"):
            raise UserError(
                f"{where}: invert_sigmas = true is not supported: its network is told 1 - σ, as only video models are"
            )
        kept = {
            "_class_name": EULER,
            "num_train_timesteps": check_timesteps(found.get("num_train_timesteps", 1000), where),
        }
        for name, default in (*DEFAULTS.items(), (TOKENS, None), (EVEN, False)):
            value = given.get(name, default)
            if value is not None and value != default:
                kept[name] = value
        _check(kept, where)
        return cls(kept)

    def spaced_for(self, tokens: int | None, even: bool = False) -> "FlowMatching":
        """Returns the process with a sampler's spacing for images of `tokens` tokens, as dynamic shifting needs.

        None leaves their number open.

        `even`: the pipeline itself gives its scheduler the noise levels 1, ..., 1 / n before they are shifted, as
        Flux's does; otherwise they are the scheduler's own.
        """
        known = {} if tokens is None else {TOKENS: tokens}
        return FlowMatching({**self.config, **known, **({EVEN: True} if even else {})})

    @cached_property
    def signal_T(self) -> np.ndarray:
        """1 - σ."""
        return 1 - self.noise_T

    @cached_property
    def noise_T(self) -> np.ndarray:
        """σ = (step + 1) / T."""
        timesteps = self.config["num_train_timesteps"]
        return np.arange(1, timesteps + 1) / timesteps

    @property
    def noisiest(self) -> int:
        """The last step, of noise alone: there, too, the clean sample is the noise minus the prediction."""
        return self.timesteps - 1

    def spaced(self, steps: int) -> list[int]:
        """Returns the steps nearest to the noise levels of diffusers' scheduler, each once."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        if steps >= self.timesteps:
            return list(reversed(range(self.timesteps)))
        if steps == 1:
            return [self.noisiest]
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(self.config))
        own = np.linspace(1.0, 1 / steps, steps) if self.config.get(EVEN) else None
        shift = {"mu": self.mu} if self.config.get("use_dynamic_shifting") else {}
        scheduler.set_timesteps(steps, sigmas=own, **shift)
        places_S = np.rint(scheduler.sigmas[:-1].double().numpy() * self.timesteps).astype(int) - 1
        return list(dict.fromkeys(np.clip(places_S, 0, self.noisiest).tolist()))

    @property
    def mu(self) -> float:
        """The dynamic shift, linear in the number of image tokens; raises `ValueError` where that is not known."""
        config = {**DEFAULTS, **self.config}
        if TOKENS not in config:
            raise ValueError(
                "a scheduler with use_dynamic_shifting needs spaced_for(tokens) before it can sample"
            )
        low, high = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (high - low)
        return config["base_shift"] + slope * (config[TOKENS] - low)

    def time(self, steps_B: "torch.Tensor") -> "torch.Tensor":
        """Returns T σ, float32 [B], as diffusers gives it to its networks: 1, ..., T."""
        return (steps_B + 1).float()

    def target(
        self, x_B: "torch.Tensor", epsilon_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> "torch.Tensor":
        """Returns the velocity dx/dσ = ε - x_0 at every step."""
        return epsilon_B - x_B

    def estimates(
        self, predicted_B: "torch.Tensor", noised_B: "torch.Tensor", steps_B: "torch.Tensor"
    ) -> Estimates:
        """Follows the velocity to both ends: x_0 = x_t - σ v and ε = x_t + (1 - σ) v."""
        signal_B, noise_B = (at(table, steps_B, noised_B) for table in (self.signal_T, self.noise_T))
        return Estimates(noised_B - noise_B * predicted_B, noised_B + signal_B * predicted_B)

    def save(self, folder: Path) -> None:
        """Writes it as a `FlowMatchEulerDiscreteScheduler`."""
        import json

        from diffusers import FlowMatchEulerDiscreteScheduler

        FlowMatchEulerDiscreteScheduler.from_config(dict(self.config)).save_pretrained(folder / PLACE.parent)
        written = json.loads((folder / PLACE).read_text()) | self.config
        (folder / PLACE).write_text(json.dumps(written, indent=2))


def _check_solver(found: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` for a solver set half to flows, half to betas."""
    kind, prediction = found["_class_name"], found.get("prediction_type", "epsilon")
    if not found.get("use_flow_sigmas"):
        raise UserError(
            f"{where}: prediction_type = 'flow_prediction' needs use_flow_sigmas = true in a {kind}, whose betas are "
            "no flow"
        )
    if prediction != "flow_prediction":
        raise UserError(
            f"{where}: prediction_type = {prediction!r} with use_flow_sigmas = true is not supported; expected "
            "'flow_prediction'"
        )
    for name in SPACINGS:
        if found.get(name):
            raise UserError(
                f"{where}: {name} = true contradicts use_flow_sigmas = true: a {kind} would use betas"
            )


def _check(kept: Mapping[str, Any], where: str) -> None:
    for name in ("shift", "base_shift", "max_shift", "shift_terminal"):
        value = kept.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{where}: {name} = {value!r}: expected a positive number")
    if kept.get("shift_terminal", 0) >= 1:
        raise UserError(f"{where}: shift_terminal = {kept['shift_terminal']}: expected a number below 1")
    if kept.get("time_shift_type", "linear") not in ("linear", "exponential"):
        raise UserError(
            f"{where}: time_shift_type = {kept['time_shift_type']!r}: expected 'exponential' or 'linear'"
        )
    if sum(bool(kept.get(name)) for name in SPACINGS) > 1:
        raise UserError(f"{where}: at most one of {', '.join(SPACINGS)} may be true")
