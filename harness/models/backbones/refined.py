"""Base of the families that refine image and text apart before one stream of both. No torch at import."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from harness.core.errors import UserError
from harness.models.backbones.flows import check_flow
from harness.models.backbones.pipeline import Parts, Pipeline
from harness.models.backbones.prompted import PromptedFamily
from harness.models.noise_processes.process import NoiseProcess


class RefinedFamily(PromptedFamily):
    """Next-DiT's kin: the network's time runs from noise to image, its velocity is the negative of the process's.

    Blocks are the image's refiners and those of the stream. Positions are rotary, for maps of any size up to a limit.
    """

    autoencoders = ("vae",)
    latent = True
    folder = "transformer"
    text_parts = ("text_encoder", "tokenizer")
    tokens: ClassVar[int]  # of a prompt, for the table of blocks

    def map_size(self, config: Mapping[str, Any]) -> None:
        """Reads maps of any size that `parts` accepts."""

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any], size: int) -> Parts:
        """Refuses images with more rows of patches than there are positions."""
        found = super().parts(pipeline, config, size)
        rows, known = found.map_size // self.patch(config), min(config["axes_lens"][1:])
        if rows > known:
            largest = size // rows * known
            raise UserError(
                f"{pipeline.root}: reads images of up to {largest} pixels, but the data has {size}; "
                f"set data.size={largest}"
            )
        return found

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Refuses all but flows of 1000 timesteps; a sampler takes the pipeline's even steps."""
        flow = check_flow(found, self.class_name, path, told=True)
        return flow.spaced_for(self.sampled_tokens(config, map_size), even=True)

    def sampled_tokens(self, config: Mapping[str, Any], map_size: int) -> int:
        """Returns the number of tokens by which the pipeline shifts a sampler's steps."""
        return (map_size // self.patch(config)) ** 2

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the width of the text encoder."""
        return {"text_encoder": config["cap_feat_dim"]}

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the prompt's embedding, without padding."""
        return {"prompt": [self.tokens, config["cap_feat_dim"]]}
