"""Sweeps that say what a diffusion model's features are worth, and whether diffusion can write weights."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def load(folder: Any, device: Any = None) -> Any:
    """Reads what `harness export` wrote: `load(folder)(images)` are class probabilities.

    On `device`, by default the GPU if there is one. Imports torch, which `import harness` does not.
    """
    return import_module("harness.sweep.export").load(folder, device)
