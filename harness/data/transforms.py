"""Converts stored images to network inputs."""

import torch


def as_input(examples: torch.Tensor) -> torch.Tensor:
    """Maps grey levels (uint8, 0..255) to float32 in [-1, 1], as diffusion models expect; floats are unchanged."""
    return examples.to(torch.float32) / 127.5 - 1.0 if examples.dtype == torch.uint8 else examples
