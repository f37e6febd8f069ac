"""Where to compute: the GPU if there is one."""

import platform

import torch

from harness.core.stages import Workshop


def pick_device(workshop: Workshop) -> torch.device:
    """Returns the GPU that this process may use, or the CPU."""
    if workshop.accelerators and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def describe_device(device: torch.device) -> str:
    """Returns what rows record: "cpu x86_64" or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
