"""What a diffusion network is told besides image and timestep: a prompt, a class label, a guidance scale. No torch.

A condition is one for all images. Its tensors, without a batch dimension, are made once (by the text encoders, for a
prompt) and stored in `FILE`, in a backbone's folder or in an artifact of their own.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import Field

from harness.core.config import Config

FILE = "condition.safetensors"
NETWORK, NAME = (
    "network",
    "condition",
)  # what a file of embeddings says of itself: class of the network, condition

TEXT = ("prompt", "embeddings", "unconditional")  # the settings that say what text a network reads

AnyConfig = TypeVar("AnyConfig", bound=Config)


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

    def completed(self, backbone: Config) -> "Condition":
        """Returns this condition with what it leaves out as a backbone's settings have it.

        A prompt, its embeddings and `unconditional` exclude each other: one of them takes the place of the others.
        """
        fields = [name for name in Condition.model_fields if name in type(backbone).model_fields]
        if any(name in self.given for name in TEXT):
            fields = [name for name in fields if name not in TEXT]
        own = Condition(**{name: getattr(backbone, name) for name in fields})
        return Condition(**{**own.given, **self.given})

    def on(self, backbone: AnyConfig) -> AnyConfig:
        """Returns a backbone's settings under this condition; those that it does not have are left out."""
        fields = [name for name in Condition.model_fields if name in type(backbone).model_fields]
        return backbone.model_copy(update={name: getattr(self, name) for name in fields})


class ConditionPlan(NamedTuple):
    """A condition resolved for one network."""

    name: str  # as rows show it: 'prompt ""', "null label", "label 3"
    settings: Mapping[str, Any]  # resolved settings of `Condition`, JSON-like
    fingerprint: str  # of all that its tensors depend on
