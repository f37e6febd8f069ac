"""Inception as the FID has it: an encoder for those who have installed the extra `fid`.

Heusel et al. 2017: the Fréchet distance of its 2048 pooled numbers is the FID. The network and its weights, which
are those of the 2015 TensorFlow graph, come with `pytorch-fid`, which fetches them once a machine.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from harness.core.errors import UserError
from harness.core.stages import Code, Context, Stage
from harness.models.encoders.encoder import POOLED, Encoder, select

if TYPE_CHECKING:
    import torch

INCEPTION = Code("inception", 1, "harness.models.encoders.inception:save_inception")
LIBRARY = "pytorch_fid"
WIDTH = 2048  # numbers an image


class Inception(Encoder):
    """Inception-v3 of the FID."""

    name: Literal["inception"] = "inception"

    def stage(self, channels: int) -> Stage:
        """Raises `UserError` where the library is not installed."""
        if find_spec(LIBRARY) is None:
            raise UserError(
                "encoder 'inception' needs pytorch-fid, which is not installed; pip install 'harness[fid]', or "
                "choose another encoder, such as facebook/dinov2-base"
            )
        select(self.layers, [POOLED], self.display_name)
        return Stage(
            kind="encoder",
            code=INCEPTION,
            config={"opener": "harness.models.encoders.inception:open_inception", "library": LIBRARY},
        )


def save_inception(stage: Stage, folder: Path, context: Context) -> None:
    """Writes what the encoder is; the library keeps its weights itself."""
    (folder / "encoder.json").write_text(json.dumps(dict(stage.config)))


def open_inception(folder: Path) -> "OpenInception":
    """Returns the encoder, with its weights."""
    kind = import_module(f"{LIBRARY}.inception").InceptionV3
    return OpenInception(kind([kind.BLOCK_INDEX_BY_DIM[WIDTH]]))


class OpenInception:
    """The library's network, for images in [-1, 1]."""

    layers = [POOLED]

    def __init__(self, network: Any) -> None:
        self._network = network.eval().requires_grad_(False)

    def to(self, device: "torch.device") -> Self:
        """Moves it to `device`."""
        self._network.to(device)
        return self

    def features(
        self, x_BCHW: "torch.Tensor", layers: Sequence[str] | None = None
    ) -> dict[str, "torch.Tensor"]:
        """Returns the pooled numbers [B, 2048], the only layer."""
        return {POOLED: self.pooled(x_BCHW)}

    def pooled(self, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns float32 [B, 2048]; the library resizes images, which it takes in [0, 1], to 299 pixels."""
        found: torch.Tensor = self._network((x_BCHW.expand(-1, 3, -1, -1) + 1) / 2)[0].flatten(1).float()
        return found
