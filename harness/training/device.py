"""The device to compute on: the GPU if there is one."""

import platform

import torch

from harness.core.stages import Context


def pick_device(context: Context) -> torch.device:
    """Returns the GPU that this process may use, or the CPU."""
    if context.accelerators and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def describe_device(device: torch.device) -> str:
    """Returns the device as rows record it: "cpu x86_64" or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
