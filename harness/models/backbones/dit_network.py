"""The network of original DiT and SiT checkpoints, whose timestep embedding diffusers' own DiT does not have."""

from typing import Any

from diffusers import DiTTransformer2DModel
from diffusers import ModelMixin as ModelMixin  # pipelines look for it in the module of a network


class OriginalDiTTransformer2DModel(DiTTransformer2DModel):
    """`DiTTransformer2DModel` with two numbers of the original code (Peebles and Xie 2022).

    The frequencies of its timestep embedding end above 1e-4 (`downscale_freq_shift` 0, which diffusers has as 1), and
    all norms have an epsilon of 1e-6.

    A field of config.json beside those of `DiTTransformer2DModel`: `objective`, with which it was trained, one of
    `harness.models.backbones.dit.OBJECTIVES`.
    """

    def __init__(self, objective: str = "ddpm", **dit: Any) -> None:
        super().__init__(**{**dit, "norm_eps": 1e-6})
        self.register_to_config(objective=objective)
        for block in self.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Lets `from_config` pass on the fields of `DiTTransformer2DModel`."""
        own = DiTTransformer2DModel._get_init_keys(input_class) - {"dit"}
        return own | DiTTransformer2DModel._get_init_keys(DiTTransformer2DModel)
