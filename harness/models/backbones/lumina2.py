"""The family of `Lumina2Transformer2DModel` (Lumina-Image 2.0, Qin et al. 2025, arXiv 2503.21758)."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models.backbones.family import check_numbers
from harness.models.backbones.flows import TIMESTEPS
from harness.models.backbones.refined import RefinedFamily

if TYPE_CHECKING:
    import torch


class Lumina2Family(RefinedFamily):
    """`Lumina2Transformer2DModel`: in the stream, the text's tokens are before the image's.

    Prompts stand behind the pipeline's system prompt; the unconditional pass has the empty prompt without it.
    """

    network = "diffusers:Lumina2Transformer2DModel"
    needed = ("in_channels", "num_layers", "cap_feat_dim")
    defaults = {"patch_size": 2, "num_refiner_layers": 2, "axes_lens": [300, 512, 512]}
    conditions = ("prompt", "embeddings", "unconditional")
    pipeline = "diffusers:Lumina2Pipeline"
    stacks = {"noise_refiner": "num_refiner_layers", "layers": "num_layers"}
    tokens = 32  # of the system prompt, in Gemma's words

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses values that are not counts."""
        counts = (*self.needed, "patch_size", "num_refiner_layers")
        check_numbers({name: config[name] for name in counts}, path)

    def sampled_tokens(self, config: Mapping[str, Any], map_size: int) -> int:
        """Returns the number of channels, which diffusers' pipeline takes for that of tokens."""
        return config["in_channels"]

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns Gemma's embeddings without those of padding, which the network would mask."""
        found = pipeline.encode_prompt(prompt, unconditional, device="cpu")
        embedding_1MD, mask_1M = found[2:] if unconditional else found[:2]
        return {"prompt": embedding_1MD[0, mask_1M[0].bool()]}

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network at 1 - σ and returns the negative of its velocity."""
        import torch

        prompt_BMD = condition["prompt"]
        mask_BM = torch.ones(prompt_BMD.shape[:2], dtype=torch.bool, device=z_BCHW.device)
        # The network adds up this mask in Python: on the CPU that waits for no GPU, and works beside meta tensors.
        here_BM = torch.ones_like(mask_BM, device="cpu")
        hook = network.rope_embedder.register_forward_pre_hook(lambda module, given: (given[0], here_BM))
        try:
            return -network(z_BCHW, 1 - time_B / TIMESTEPS, prompt_BMD, mask_BM).sample
        finally:
            hook.remove()

    def as_map(self, network: Any, module: str, output: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns the image's tokens, which are the last."""
        count = z_BCHW.shape[-2] * z_BCHW.shape[-1] // network.config.patch_size**2
        return super().as_map(network, module, output[:, -count:], z_BCHW)


FAMILY = Lumina2Family()
