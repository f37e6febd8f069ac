"""From stored pixels to what networks read."""

import torch


def to_unit_range(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Maps uint8 grey levels 0..255 to float32 in [-1, 1], the range of diffusion models."""
    return images_NCHW.to(torch.float32) / 127.5 - 1.0
