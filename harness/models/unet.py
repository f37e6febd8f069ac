"""Builds diffusion U-Nets and reads the activations of their blocks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn


def build_unet(config: Mapping[str, Any]) -> UNet2DModel:
    """Returns an untrained `UNet2DModel`, initialised from torch's current random state."""
    return UNet2DModel.from_config(dict(config))


def save_pipeline(unet: UNet2DModel, scheduler: Mapping[str, Any], folder: Path) -> None:
    """Writes a folder that diffusers' `DDPMPipeline.from_pretrained` reads, weights in safetensors."""
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    save_frame(scheduler, folder)


def save_frame(scheduler: Mapping[str, Any], folder: Path) -> None:
    """Writes what makes a folder with a U-Net a pipeline: the scheduler and the index."""
    DDPMScheduler.from_config(dict(scheduler)).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(
        '{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], '
        '"scheduler": ["diffusers", "DDPMScheduler"]}\n'
    )


def load_pipeline(folder: Path) -> tuple[UNet2DModel, DDPMScheduler]:
    """Reads what `save_pipeline` wrote; the network is in evaluation mode and needs no gradients."""
    unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, low_cpu_mem_usage=False)
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    return unet.eval().requires_grad_(False), scheduler


class _Enough(Exception):
    """Ends a forward pass after the deepest block asked for."""


class Taps:
    """Reads the outputs of named modules in one forward pass that stops after the last of them."""

    def __init__(self, model: nn.Module, modules: Sequence[str]) -> None:
        """`modules` in the order in which they run."""
        self._model = model
        self._activations: dict[str, torch.Tensor] = {}
        self._hooks = [
            model.get_submodule(name).register_forward_hook(self._hook(name, last=name == modules[-1]))
            for name in modules
        ]

    def remove(self) -> None:
        """Leaves the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str, last: bool) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._activations[name] = output[0] if isinstance(output, tuple) else output
            if last:
                raise _Enough

        return keep

    def __call__(self, x_NCHW: torch.Tensor, timestep: int) -> dict[str, torch.Tensor]:
        """Returns activations [N, C', H', W'] by module name for noised images at `timestep`."""
        self._activations = {}
        timesteps_N = torch.full((len(x_NCHW),), timestep, device=x_NCHW.device)
        try:
            self._model(x_NCHW, timesteps_N)
        except _Enough:
            return self._activations
        raise RuntimeError("the deepest block was never reached: its module did not run")
