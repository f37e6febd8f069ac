"""A diffusion backbone ready to run: its network, its noise schedule, and how activations of its blocks are read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn


class Denoiser:
    """What every diffusion backbone looks like from outside, whatever network it is.

    Noise is added to what `encode` returns: the images themselves, or a VAE's latents of them. Frozen, in
    evaluation mode.
    """

    def __init__(self, network: nn.Module, scheduler: DDPMScheduler) -> None:
        self.network = network.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.alphas_cumprod_T = scheduler.alphas_cumprod  # of Ho et al. 2020; float32, T entries
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        """Moves it to `device`; on GPUs to channels-last, which convolutions run fastest on."""
        self.network.to(device)
        if device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        return self

    def encode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns what noise is added to, for images [B, C, H, W] in [-1, 1]."""
        return x_BCHW

    def decode(self, z_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns images in [-1, 1], the way back from `encode`."""
        return z_BCHW

    def noised(
        self, z_BCHW: torch.Tensor, epsilon_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """Returns sqrt(a) z + sqrt(1 - a) epsilon (Ho et al. 2020, equation 4) at each image's timestep."""
        return self.scheduler.add_noise(z_BCHW, epsilon_BCHW, timesteps_B)

    def __call__(self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Returns the predicted noise [B, C, H, W]; a learnt variance is dropped."""
        return self.run(z_BCHW, timesteps_B)[:, : z_BCHW.shape[1]]

    def run(self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network with the condition that means none; returns all its output channels."""
        return self.network(z_BCHW, timesteps_B).sample

    def as_map(self, activation: torch.Tensor) -> torch.Tensor:
        """Returns a block's output as a feature map [B, C', H', W']."""
        return activation

    def taps(self, modules: Sequence[str]) -> "Taps":
        """Returns what reads the outputs of `modules`, named in the order in which they run. Call `remove` after."""
        return Taps(self, modules)


class _Enough(Exception):
    """Ends a forward pass after the deepest block asked for."""


class Taps:
    """Reads the outputs of named modules in one forward pass that stops after the last of them."""

    def __init__(self, denoiser: Denoiser, modules: Sequence[str]) -> None:
        self._denoiser = denoiser
        self._activations: dict[str, torch.Tensor] = {}
        self._hooks = [
            denoiser.network.get_submodule(name).register_forward_hook(
                self._hook(name, last=name == modules[-1])
            )
            for name in modules
        ]

    def remove(self) -> None:
        """Leaves the network as it was."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str, last: bool) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            activation = output[0] if isinstance(output, tuple) else output
            self._activations[name] = self._denoiser.as_map(activation)
            if last:
                raise _Enough

        return keep

    def __call__(self, z_BCHW: torch.Tensor, timestep: int | torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns activations [B, C', H', W'] by module name for what was noised to `timestep` (one, or [B])."""
        self._activations = {}
        timesteps_B = torch.as_tensor(timestep, device=z_BCHW.device).expand(len(z_BCHW))
        try:
            self._denoiser.run(z_BCHW, timesteps_B)
        except _Enough:
            return self._activations
        raise RuntimeError("the deepest block was never reached: its module did not run")


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


def load_denoiser(folder: Path) -> Denoiser:
    """Reads what `save_pipeline` wrote."""
    unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, low_cpu_mem_usage=False)
    return Denoiser(unet, DDPMScheduler.from_pretrained(folder / "scheduler"))
