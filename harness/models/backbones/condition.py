"""What a diffusion network is told besides image and timestep: a prompt, a class label, a guidance scale. No torch.

A condition is one for all images. Its tensors, without a batch dimension, are made once (by the text encoders, for a
prompt) and stored in `FILE`, in a backbone's folder or in an artifact of their own.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from harness.core.config import Config

FILE = "condition.safetensors"
NETWORK, NAME = (
    "network",
    "condition",
)  # what a file of embeddings says of itself: class of the network, condition


class Condition(Config):
    """The condition of a pretrained backbone; a network takes some of these, each with a default where it has one."""

    prompt: str | None = Field(None, max_length=10_000)  # of a text-conditional model; "" unless given
    label: int | Literal["null"] | None = None  # of a class-conditional model; its null class unless given
    # The condition of the unconditional pass in classifier-free guidance, which some models train as zeros
    unconditional: bool = False
    guidance: float | None = Field(None, ge=0, le=1000)  # input of guidance-distilled models
    embeddings: str | None = None  # a file that `harness embed-prompt` wrote, instead of a prompt

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not at their default."""
        values = {name: getattr(self, name) for name in Condition.model_fields}
        return {name: value for name, value in values.items() if value is not None and value is not False}


class ConditionPlan(NamedTuple):
    """A condition resolved for one network."""

    name: str  # as rows show it: 'prompt ""', "null label", "label 3"
    settings: Mapping[str, Any]  # resolved settings of `Condition`, JSON-like
    fingerprint: str  # of all that its tensors depend on
