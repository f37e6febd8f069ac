"""Noise levels as an experiment names them: by timestep, fraction of T, sigma or log-SNR. No torch."""

from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationError

from harness.core.config import Config
from harness.core.errors import did_you_mean


class NoiseLevel(Config):
    """A noise level, given by exactly one of these; it resolves to the nearest step of the process."""

    fraction: float | None = Field(None, ge=0, le=1)  # of T
    sigma: float | None = Field(None, gt=0)  # noise-to-signal ratio
    log_snr: float | None = None  # ln(signal² / noise²)

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
        raise ValueError(
            "expected a timestep: an integer, or one of {fraction: 0.09}, {sigma: 0.3}, {log_snr: 2.0}"
        )
    ((name, number),) = value.items()
    if name not in NoiseLevel.model_fields:
        raise ValueError(f"unknown noise level {name!r}; {did_you_mean(name, NoiseLevel.model_fields)}")
    try:
        return NoiseLevel.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{name} = {number!r}: {error.errors()[0]['msg']}") from None


Timestep = Annotated[int | NoiseLevel, PlainValidator(_timestep)]  # an entry of a list of timesteps
