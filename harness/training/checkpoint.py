"""Checkpoints: folders of safetensors and JSON with all that is needed to resume training.

model.safetensors      the weights
ema.safetensors        their moving average, if there is one
optimizer.safetensors  the optimizer's state, by PARAMETER/ENTRY
snapshots.safetensors  the snapshots that the task has taken
state.json             the step and the loss history
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.models.finite import refuse_infinite_weights

FILES_FOR_RESUMING = ("optimizer.safetensors",)


@dataclass
class Progress:
    """The state of a training run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: nn.Module | None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    snapshots: list[torch.Tensor] = field(default_factory=list)


def save(progress: Progress, folder: Path) -> None:
    """Writes a checkpoint into an existing `folder`; raises `FloatingPointError` for weights that are not finite."""
    for module in (progress.model, progress.ema):
        if module is not None:
            refuse_infinite_weights(
                module.state_dict(), f"the weights after step {progress.step} (lower the learning rate)"
            )
    save_file(_on_cpu(progress.model.state_dict()), folder / "model.safetensors")
    if progress.ema is not None:
        save_file(_on_cpu(progress.ema.state_dict()), folder / "ema.safetensors")
    state = {
        f"{parameter}/{entry}": value
        for parameter, entries in progress.optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
        if isinstance(value, torch.Tensor)
    }
    save_file(_on_cpu(state), folder / "optimizer.safetensors")
    if progress.snapshots:
        save_file({"snapshots": torch.stack(progress.snapshots)}, folder / "snapshots.safetensors")
    (folder / "state.json").write_text(json.dumps({"step": progress.step, "history": progress.history}))


def restore(progress: Progress, folder: Path) -> None:
    """Restores the state from the checkpoint in `folder`."""
    progress.model.load_state_dict(load_file(folder / "model.safetensors"))
    if progress.ema is not None:
        progress.ema.load_state_dict(load_file(folder / "ema.safetensors"))
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(folder / "optimizer.safetensors").items():
        parameter, entry = name.split("/")
        entries.setdefault(int(parameter), {})[entry] = value
    progress.optimizer.load_state_dict({**progress.optimizer.state_dict(), "state": entries})
    if (folder / "snapshots.safetensors").exists():
        progress.snapshots = list(load_file(folder / "snapshots.safetensors")["snapshots"])
    state = read_state(folder)
    progress.step, progress.history = state["step"], state["history"]


def read_state(folder: Path) -> dict[str, Any]:
    """Returns {"step", "history": [{"step", "loss", ...}]} of a checkpoint."""
    return json.loads((folder / "state.json").read_text())


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights to use after training: the moving average if there is one."""
    average = folder / "ema.safetensors"
    return load_file(average if average.exists() else folder / "model.safetensors")


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
