"""A noise schedule given by hand, in the words of an experiment: `backbone.schedule`. No torch."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from harness.core.config import Config

Prediction = Literal["epsilon", "v_prediction", "sample"]
Kind = Literal["linear", "scaled_linear", "cosine", "sigmoid", "laplace", "betas", "flow", "edm"]
BETAS: Mapping[str, str] = {  # our words for diffusers' `beta_schedule`
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
    "sigmoid": "sigmoid",
    "laplace": "laplace",
    "betas": "linear",  # not used beside trained_betas
}
RANGE = ("beta_start", "beta_end")
EDM = ("sigma_min", "sigma_max", "sigma_data")
# The fields that each kind takes besides `timesteps`.
FIELDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "scaled_linear", "sigmoid"), (*RANGE, "prediction_type", "zero_snr")),
    **dict.fromkeys(("cosine", "laplace"), ("prediction_type", "zero_snr")),
    "betas": ("betas", "prediction_type", "zero_snr"),
    "flow": ("shift",),
    "edm": (*EDM, "prediction_type"),
}
OTHER_NAMES = {"squaredcos_cap_v2": "cosine"}


class Schedule(Config):
    """The noise schedule that a network was trained with; what is not given has diffusers' default."""

    name: Kind
    timesteps: int | None = Field(None, ge=1, le=100_000)  # None: 1000, or as many as `betas`
    beta_start: float | None = Field(None, gt=0, lt=1)
    beta_end: float | None = Field(None, gt=0, lt=1)
    betas: list[float] | None = Field(None, min_length=1)
    zero_snr: bool | None = None  # betas rescaled to leave no signal at the last step (Lin et al. 2023)
    prediction_type: Prediction | None = None  # what the network predicts
    shift: float | None = Field(None, gt=0)  # of a sampler's steps
    sigma_min: float | None = Field(None, gt=0)
    sigma_max: float | None = Field(None, gt=0)
    sigma_data: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Reads a name alone, and diffusers' name of the cosine."""
        if isinstance(values, str):
            values = {"name": values}
        if isinstance(values, dict) and isinstance(values.get("name"), str):
            return {**values, "name": OTHER_NAMES.get(values["name"], values["name"])}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        taken = FIELDS[self.name]
        for name in type(self).model_fields:
            if name not in ("name", "timesteps", *taken) and getattr(self, name) is not None:
                raise ValueError(f"{name} is not for schedule {self.name}, which takes {', '.join(taken)}")
        if (self.name == "betas") != (self.betas is not None):
            raise ValueError("schedule betas needs betas: one number between 0 and 1 per timestep")
        if self.betas is not None and self.timesteps not in (None, len(self.betas)):
            raise ValueError(f"timesteps = {self.timesteps}, but there are {len(self.betas)} betas")
        return self

    def scheduler(self) -> dict[str, Any]:
        """Returns the configuration of a diffusers scheduler with this schedule."""
        given = {
            name: value
            for name in FIELDS[self.name]
            if name not in ("betas", "zero_snr") and (value := getattr(self, name)) is not None
        }
        timesteps = {"num_train_timesteps": self.timesteps or (len(self.betas) if self.betas else 1000)}
        if self.name == "flow":
            return {"_class_name": "FlowMatchEulerDiscreteScheduler", **timesteps, **given}
        if self.name == "edm":
            return {"_class_name": "EDMEulerScheduler", **timesteps, **given}
        if self.betas is not None:
            given["trained_betas"] = list(self.betas)
        if self.zero_snr:
            given["rescale_betas_zero_snr"] = True
        return {
            "_class_name": "DDPMScheduler",
            "beta_schedule": BETAS[self.name],
            **timesteps,
            **given,
        }
