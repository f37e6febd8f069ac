"""Sweeps that measure how good a diffusion model's features are, and whether diffusion can generate weights."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def load(folder: Any, device: Any = None) -> Any:
    """Loads what `harness export` wrote: `load(folder)(images)` returns class probabilities.

    Runs on `device`, by default the GPU if there is one. Imports torch, which `import harness` does not.
    """
    return import_module("harness.sweep.export").load(folder, device)
