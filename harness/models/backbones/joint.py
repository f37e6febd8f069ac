"""Base of the flow-matching transformers that hold text and image tokens side by side. No torch at import."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.errors import UserError
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.family import square
from harness.models.backbones.flows import check_flow
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.prompted import PromptedFamily
from harness.models.noise_processes.flow_matching import FlowMatching
from harness.models.noise_processes.process import NoiseProcess

if TYPE_CHECKING:
    import torch


class JointFamily(PromptedFamily):
    """Transformers whose blocks return (text, image) tokens, or both in one sequence with the image's last.

    Their attention returns (image, text), or again one sequence. Features are those of the image's tokens.
    """

    folder = "transformer"
    autoencoders: ClassVar[Sequence[str]] = ("vae",)
    latent: ClassVar[bool] = True

    def map_size(self, config: Mapping[str, Any]) -> int | None:
        """Returns None: positions are rotary, so maps may have any size."""
        return None

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Returns the process with the sampler's spacing for as many tokens; refuses all but flow matching."""
        flow = check_flow(found, self.class_name, path)
        return self.spaced(flow, (map_size // self.patch(config)) ** 2)

    def spaced(self, found: FlowMatching, tokens: int) -> FlowMatching:
        """Returns the process with the spacing of the pipeline's sampler for images of `tokens` tokens.

        Unless overridden, that of pipelines which give the scheduler even noise levels.
        """
        return found.spaced_for(tokens, even=True)

    def as_map(self, network: Any, module: str, output: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the image's tokens as a map."""
        if isinstance(output, tuple):
            output = output[1] if module.count(".") == 1 else output[0]
        side = z_BCHW.shape[-1] // self.patch(network.config)
        return square(output[:, -(side**2) :])


class GuidedFamily(JointFamily):
    """A family with guidance-distilled networks: those with `guidance_embeds` read a guidance scale as an input."""

    conditions: ClassVar[Sequence[str]] = ("prompt", "embeddings", "guidance")
    guidance_scale: ClassVar[float]  # the pipeline's default

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the prompt and the guidance scale, the pipeline's default unless given."""
        if not config["guidance_embeds"]:
            if given.guidance is not None:
                raise UserError(
                    f"backbone.guidance is given, but this {self.class_name} has guidance_embeds = false, hence "
                    "reads no guidance scale"
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

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the guidance scale."""
        import torch

        return {"guidance": torch.tensor(settings["guidance"])} if config["guidance_embeds"] else {}


def check_rotary(config: Mapping[str, Any], path: Path, axes: str = "axes_dims_rope") -> None:
    """Raises `UserError`, beginning with `path`, unless the axes' rotary channels add up to those of a head."""
    widths, head = config[axes], config["attention_head_dim"]
    if not isinstance(widths, list | tuple) or not all(isinstance(one, int) for one in widths):
        raise UserError(f"{path}: {axes} = {widths!r}: expected a list of channel counts")
    if sum(widths) != head:
        raise UserError(f"{path}: {axes} = {[*widths]} does not add up to attention_head_dim = {head}")
