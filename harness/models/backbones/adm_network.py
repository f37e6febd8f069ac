"""The network of ADM checkpoints that diffusers' own `UNet2DModel` cannot represent."""

from typing import Any

from diffusers import ModelMixin as ModelMixin  # pipelines look for it in the module of a network
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps


class ADMUNet2DModel(UNet2DModel):
    """`UNet2DModel` with three freedoms of guided-diffusion's `UNetModel` (Dhariwal and Nichol 2021).

    Fields of config.json beside those of `UNet2DModel`, of which `time_embedding_dim` is required:
    `model_channels`, the width of the timestep's sinusoids, there always that of the first block;
    `num_attention_heads` of all attention layers, whose heads are then of different widths;
    `timestep_scale`, by which timesteps are multiplied.
    """

    def __init__(
        self,
        model_channels: int,
        num_attention_heads: int | None = None,
        timestep_scale: float = 1.0,
        **unet: Any,
    ) -> None:
        super().__init__(**unet)
        self.register_to_config(
            model_channels=model_channels,
            num_attention_heads=num_attention_heads,
            timestep_scale=timestep_scale,
        )
        self.time_proj = Timesteps(model_channels, True, 0, timestep_scale)
        self.time_embedding = TimestepEmbedding(model_channels, unet["time_embedding_dim"])
        if num_attention_heads is not None:
            for module in self.modules():
                if isinstance(module, Attention):
                    module.heads = module.sliceable_head_dim = num_attention_heads
                    module.scale = (module.inner_dim // num_attention_heads) ** -0.5

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Lets `from_config` pass on the fields of `UNet2DModel`."""
        own = UNet2DModel._get_init_keys(input_class) - {"unet"}
        return own | UNet2DModel._get_init_keys(UNet2DModel)
