"""Base of the flow-matching transformers that hold text and image tokens side by side. No torch at import."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.errors import UserError
from harness.models.backbones.family import square
from harness.models.backbones.flows import check_flow
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


def check_rotary(config: Mapping[str, Any], path: Path, axes: str = "axes_dims_rope") -> None:
    """Raises `UserError`, beginning with `path`, unless the axes' rotary channels add up to those of a head."""
    widths, head = config[axes], config["attention_head_dim"]
    if not isinstance(widths, list | tuple) or not all(isinstance(one, int) for one in widths):
        raise UserError(f"{path}: {axes} = {widths!r}: expected a list of channel counts")
    if sum(widths) != head:
        raise UserError(f"{path}: {axes} = {[*widths]} does not add up to attention_head_dim = {head}")
