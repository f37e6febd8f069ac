"""A diffusion backbone ready to run: network, noise process, and the reading of its blocks' activations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from harness.core.config import read_json
from harness.models.backbones.family import Family, family_named, family_of, network_folders
from harness.models.backbones.pipeline import CONFIG, Pipeline
from harness.models.noise_processes.process import NoiseProcess, load_process

INDEX = "model_index.json"
CPU = torch.device("cpu")
SELF_CONDITIONED = "_self_conditioned"  # key in the index; diffusers ignores names with a leading underscore


class Denoiser:
    """The common interface of diffusion backbones, whatever their network.

    Noise is added to what `encode` returns: the images themselves, or their VAE latents. Frozen, in evaluation mode.
    """

    def __init__(
        self,
        family: Family,
        network: nn.Module,
        process: NoiseProcess,
        *,
        autoencoder: nn.Module | None = None,
        condition: torch.Tensor | None = None,
        self_conditioned: bool = False,
    ) -> None:
        """`autoencoder` and `condition` are passed to the family's `encode` and `run`.

        A self-conditioned network also reads its own estimate of the clean image.
        """
        self.family = family
        self.network: Any = network.eval().requires_grad_(False)
        self.process = process
        self.autoencoder: Any = None if autoencoder is None else autoencoder.eval().requires_grad_(False)
        self.self_conditioned = self_conditioned
        self.device = torch.device("cpu")
        self._condition = condition

    def to(self, device: torch.device) -> Self:
        """Moves it to `device`; on GPUs in channels-last format, the fastest for convolutions."""
        for module in (self.network, self.autoencoder):
            if module is not None:
                module.to(device)
                if device.type == "cuda":
                    module.to(memory_format=torch.channels_last)
        if self._condition is not None:
            self._condition = self._condition.to(device)
        self.device = device
        return self

    @property
    def bound(self) -> float | None:
        """The largest absolute value that `encode` returns; None if there is no bound."""
        return None if self.family.latent else 1.0

    def encode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns what noise is added to, for images [B, C, H, W] in [-1, 1]."""
        return self.family.encode(self.autoencoder, x_BCHW)

    def decode(self, z_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns images in [-1, 1], the inverse of `encode`."""
        return self.family.decode(self.autoencoder, z_BCHW)

    def noised(self, z_BCHW: torch.Tensor, epsilon_BCHW: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
        """Returns what `encode` returned, noised to each image's timestep."""
        return self.process.noised(z_BCHW, epsilon_BCHW, steps_B)

    def predict(
        self, z_BCHW: torch.Tensor, steps_B: torch.Tensor, estimate_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the network's prediction [B, C, H, W] for `process.estimates`, without a learnt variance.

        A self-conditioned network reads the estimate of the clean images, or zeros; others ignore it.
        """
        return self.run(self.conditioned(z_BCHW, estimate_BCHW), steps_B)[:, : z_BCHW.shape[1]]

    def __call__(
        self, z_BCHW: torch.Tensor, steps_B: torch.Tensor, estimate_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the predicted noise [B, C, H, W], converted from whatever the network predicts."""
        predicted_BCHW = self.predict(z_BCHW, steps_B, estimate_BCHW)
        return self.process.estimates(predicted_BCHW, z_BCHW, steps_B).noise

    def conditioned(self, z_BCHW: torch.Tensor, estimate_BCHW: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the network's input: for self-conditioned ones, the estimate (or zeros) as further channels."""
        if not self.self_conditioned:
            return z_BCHW
        return torch.cat([z_BCHW, torch.zeros_like(z_BCHW) if estimate_BCHW is None else estimate_BCHW], 1)

    def run(self, z_BCHW: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network with the null condition; returns all its output channels, in float32."""
        dtype = next(self.network.parameters()).dtype
        condition = None if self._condition is None else self._condition.to(dtype)
        return self.family.run(self.network, z_BCHW.to(dtype), self.process.time(steps_B), condition).float()

    def reader(self, modules: Sequence[str]) -> "ActivationReader":
        """Returns a reader of the outputs of `modules`, in the order in which they run. Call `remove` after use."""
        return ActivationReader(self, modules)


class _Enough(Exception):
    """Ends a forward pass after the deepest requested block."""


class ActivationReader:
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
        """Removes the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str, last: bool) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            activation = output[0] if isinstance(output, tuple) else output
            self._activations[name] = self._denoiser.family.as_map(self._denoiser.network, activation)
            if last:
                raise _Enough

        return keep

    def __call__(self, z_BCHW: torch.Tensor, timestep: int | torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns activations [B, C', H', W'] by module name, for inputs noised to `timestep` (one, or [B])."""
        self._activations = {}
        timesteps_B = torch.as_tensor(timestep, device=z_BCHW.device).expand(len(z_BCHW))
        try:
            self._denoiser.run(self._denoiser.conditioned(z_BCHW), timesteps_B)
        except _Enough:
            return self._activations
        raise RuntimeError("the deepest block was never reached: its module did not run")


def save_pipeline(network: Any, process: NoiseProcess, folder: Path, self_conditioned: bool = False) -> None:
    """Writes an artifact's folder, weights in safetensors: a diffusers pipeline, if there is one for the family."""
    family = family_named(type(network).__name__)
    network.save_pretrained(folder / family.folder, safe_serialization=True)
    save_frame(family, process, folder, self_conditioned)


def save_frame(family: Family, process: NoiseProcess, folder: Path, self_conditioned: bool = False) -> None:
    """Writes what turns a network's folder into a pipeline: the scheduler and the index."""
    process.save(folder)
    index = family.index()
    if index is not None:
        mark = {SELF_CONDITIONED: True} if self_conditioned else {}
        (folder / INDEX).write_text(json.dumps(index | mark))


def load_denoiser(folder: Path, device: torch.device = CPU) -> Denoiser:
    """Opens a backbone from its artifact's folder; the network's weights go directly to `device`."""
    pipeline = Pipeline(folder)
    family = family_of(read_json(pipeline.network(network_folders()) / CONFIG))
    index = pipeline.file(INDEX)
    return Denoiser(
        family,
        family.open_network(folder, device),
        load_process(folder),
        autoencoder=family.open_autoencoder(folder),
        condition=family.open_condition(folder),
        self_conditioned=index is not None and read_json(index).get(SELF_CONDITIONED, False),
    ).to(device)
