"""The Inception network of the FID, an encoder that needs the extra `fid`.

Heusel et al. 2017: the Fréchet distance of its 2048 pooled features is the FID. The network and its weights, those of
the 2015 TensorFlow graph, come with `pytorch-fid`, which downloads them once per machine.
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
WIDTH = 2048  # features per image


class Inception(Encoder):
    """The Inception-v3 of the FID."""

    name: Literal["inception"] = "inception"

    def stage(self, channels: int) -> Stage:
        """Raises `UserError` if the library is not installed."""
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
    """Writes metadata only; the library stores the weights."""
    (folder / "encoder.json").write_text(json.dumps(dict(stage.config)))


def open_inception(folder: Path) -> "OpenInception":
    """Returns the encoder, with its weights."""
    kind = import_module(f"{LIBRARY}.inception").InceptionV3
    return OpenInception(kind([kind.BLOCK_INDEX_BY_DIM[WIDTH]]))


class OpenInception:
    """The library's network, for images in [-1, 1]."""

    layers = [POOLED]

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)

    def to(self, device: "torch.device") -> Self:
        """Moves it to `device`."""
        self._model.to(device)
        return self

    def features(
        self, x_BCHW: "torch.Tensor", layers: Sequence[str] | None = None
    ) -> dict[str, "torch.Tensor"]:
        """Returns the pooled features [B, 2048], the only layer."""
        return {POOLED: self.pooled(x_BCHW)}

    def pooled(self, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns float32 [B, 2048]; the library expects images in [0, 1] and resizes them to 299 pixels."""
        found: torch.Tensor = self._model((x_BCHW.expand(-1, 3, -1, -1) + 1) / 2)[0].flatten(1).float()
        return found
