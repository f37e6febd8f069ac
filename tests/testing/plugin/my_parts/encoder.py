"""The mean and deviation of brightness: an encoder with two features per channel."""

import json
from typing import Literal

from harness.core.stages import Code, Stage
from harness.models.encoders.encoder import POOLED, Encoder, select

BRIGHTNESS = Code("brightness", 1, "my_parts.encoder:save_brightness")


class Brightness(Encoder):
    """Mean and deviation of each channel."""

    name: Literal["brightness"] = "brightness"

    def stage(self, channels: int) -> Stage:
        """Raises `UserError` for a missing layer."""
        select(self.layers, [POOLED], self.display_name)
        config = {"opener": "my_parts.encoder:open_brightness"}
        return Stage("encoder", BRIGHTNESS, config)


def save_brightness(stage, folder, context):
    """Writes metadata only: there are no weights."""
    (folder / "encoder.json").write_text(json.dumps(dict(stage.config)))


def open_brightness(folder):
    """Returns the encoder."""
    return OpenBrightness()


class OpenBrightness:
    """The encoder, frozen as it has no weights."""

    layers = [POOLED]

    def to(self, device):
        """Does nothing: there are no weights to move."""
        return self

    def features(self, x_BCHW, layers=None):
        """Returns the only layer."""
        return {POOLED: self.pooled(x_BCHW)}

    def pooled(self, x_BCHW):
        """Returns float32 [B, 2 C]."""
        import torch

        x_BCN = x_BCHW.float().flatten(2)
        return torch.cat([x_BCN.mean(2), x_BCN.std(2)], 1)
