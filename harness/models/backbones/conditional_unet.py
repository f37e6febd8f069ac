"""The families of `UNet2DConditionModel`: one class of network, used with several kinds of condition."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.models.backbones.deepfloyd import DeepFloyd
from harness.models.backbones.family import Family
from harness.models.backbones.kandinsky import Kandinsky
from harness.models.backbones.prompted_unet import Use, use_of
from harness.models.backbones.sdxl import SDXL, LatentConsistencyXL
from harness.models.backbones.stable_diffusion import LatentConsistency, StableDiffusion

VARIANTS: Mapping[Use, Family] = {
    one.use: one
    for one in (
        StableDiffusion(),
        LatentConsistency(),
        SDXL(),
        LatentConsistencyXL(),
        Kandinsky(),
        DeepFloyd(),
    )
}


class ConditionalUNetFamily(StableDiffusion):
    """`UNet2DConditionModel`: the family of a configuration is that of its use."""

    def variants(self) -> Sequence[Family]:
        """Returns a family for each use."""
        return list(VARIANTS.values())

    def variant(self, config: Mapping[str, Any]) -> Family:
        """Returns the family of a configuration's use; for an unknown one, that which refuses it."""
        return VARIANTS.get(use_of(config), VARIANTS[Use()])


FAMILY = ConditionalUNetFamily()
