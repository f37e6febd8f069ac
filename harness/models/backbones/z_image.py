"""The family of `ZImageTransformer2DModel` (Z-Image, Z-Image Team 2025, arXiv 2511.22699)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers
from harness.models.backbones.flows import TIMESTEPS
from harness.models.backbones.refined import RefinedFamily

if TYPE_CHECKING:
    import torch

PATCH = 2  # of one frame


class ZImageFamily(RefinedFamily):
    """`ZImageTransformer2DModel`: in the stream, the image's tokens are before the text's.

    A prompt is a user's message in Qwen's chat template.
    """

    network = "diffusers:ZImageTransformer2DModel"
    needed = ("in_channels", "n_layers", "cap_feat_dim")
    defaults = {
        "n_refiner_layers": 2,
        "all_patch_size": [PATCH],
        "all_f_patch_size": [1],
        "axes_lens": [1024, 512, 512],
    }
    pipeline = "diffusers:ZImagePipeline"
    stacks = {"noise_refiner": "n_refiner_layers", "layers": "n_layers"}
    tokens = 32  # the network fills prompts up to a multiple

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts, other patches, and networks that also read images."""
        check_numbers({name: config[name] for name in (*self.needed, "n_refiner_layers")}, path)
        for name, only in (("all_patch_size", [PATCH]), ("all_f_patch_size", [1])):
            if config[name] != only:
                raise UserError(f"{path}: {name} = {config[name]!r}: only {only} is supported")
        if config.get("siglip_feat_dim") is not None:
            raise UserError(
                f"{path}: siglip_feat_dim = {config['siglip_feat_dim']!r}: Z-Image-Omni, which also reads images, is "
                "not supported"
            )

    def patch(self, config: Mapping[str, Any]) -> int:
        """Returns 2."""
        return PATCH

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns Qwen's embeddings, without padding."""
        (embedding_MD,), _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return {"prompt": embedding_MD}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network at 1 - σ on images of one frame; returns the negative of its velocity."""
        import torch

        frames = list(z_BCHW.unsqueeze(2))
        found = network(frames, (TIMESTEPS - time_B) / TIMESTEPS, list(condition["prompt"])).sample
        return -torch.stack(found).squeeze(2)

    def as_map(self, network: Any, module: str, output: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the image's tokens, which are the first."""
        count = z_BCHW.shape[-2] * z_BCHW.shape[-1] // PATCH**2
        return super().as_map(network, module, output[:, :count], z_BCHW)


FAMILY = ZImageFamily()
