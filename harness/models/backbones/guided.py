"""Base of the families with guidance-distilled networks, which read a guidance scale. No torch at import."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.errors import UserError
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.prompted import PromptedFamily

if TYPE_CHECKING:
    import torch


class GuidedFamily(PromptedFamily):
    """A family whose networks with `guidance_embeds` read a guidance scale as an input; the others take none."""

    conditions: ClassVar[Sequence[str]] = ("prompt", "embeddings", "guidance")
    guidance_scale: ClassVar[float]  # the pipeline's default

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the prompt and the guidance scale, the pipeline's default unless given."""
        if not config["guidance_embeds"]:
            if given.guidance is not None:
                raise UserError(
                    f"backbone.guidance is given, but this {self.class_name} embeds no guidance: it has "
                    "guidance_embeds = false, hence reads no guidance scale"
                )
        elif given.guidance is None:
            given = given.model_copy(update={"guidance": self.guidance_scale})
        return super().condition(source, config, given)

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the embeddings, and of the guidance scale if it is read."""
        return {**self.embedding_shapes(config), **({"guidance": []} if config["guidance_embeds"] else {})}

    @abstractmethod
    def embedding_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of what `embed` returns."""

    def read_scale(self, config: Mapping[str, Any], guidance: float) -> float:
        """Returns the number that the network reads for a guidance scale; the scale itself unless overridden."""
        return guidance

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the guidance scale as the network reads it."""
        import torch

        if not config["guidance_embeds"]:
            return {}
        return {"guidance": torch.tensor(self.read_scale(config, settings["guidance"]))}
