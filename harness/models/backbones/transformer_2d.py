"""`Transformer2DModel`: the former class of DiT and PixArt, which official repositories still name."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harness.core.errors import UserError
from harness.models.backbones.family import Family, family_named

if TYPE_CHECKING:
    import torch

# The class by `norm_type`, as diffusers remaps it; DiT's published weights are the original code's.
NOW = {"ada_norm_zero": "OriginalDiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
FIELDS = (
    "_diffusers_version",
    "activation_fn",
    "attention_bias",
    "attention_head_dim",
    "attention_type",
    "caption_channels",
    "cross_attention_dim",
    "dropout",
    "in_channels",
    "interpolation_scale",
    "norm_elementwise_affine",
    "norm_eps",
    "norm_num_groups",
    "norm_type",
    "num_attention_heads",
    "num_embeds_ada_norm",
    "num_layers",
    "out_channels",
    "patch_size",
    "sample_size",
    "upcast_attention",
    "use_additional_conditions",
)
OF_PIXART = {
    "attention_type",
    "caption_channels",
    "cross_attention_dim",
    "interpolation_scale",
    "use_additional_conditions",
}


class Transformer2DFamily(Family):
    """Reads a configuration as that of the class that the network has today, which runs it."""

    network = "diffusers:Transformer2DModel"
    folder = "transformer"
    needed = ("norm_type",)

    def read(self, found: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Returns the configuration of today's class, without fields that have no meaning for it."""
        self.check(found, path)
        name = NOW[found["norm_type"]]
        leave = OF_PIXART if found["norm_type"] == "ada_norm_zero" else set()
        kept = {field: found[field] for field in FIELDS if field in found and field not in leave}
        return family_named(name).read({**kept, "_class_name": name}, path)

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses transformers that are neither DiT nor PixArt."""
        kind = config.get("norm_type", "layer_norm")
        if kind not in NOW:
            raise UserError(
                f"{path}: a Transformer2DModel with norm_type = {kind!r} is a layer of other networks; expected "
                "'ada_norm_zero' (DiT) or 'ada_norm_single' (PixArt)"
            )

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> NoReturn:
        """Never called: `read` leads to another family."""
        raise NotImplementedError


FAMILY = Transformer2DFamily()
