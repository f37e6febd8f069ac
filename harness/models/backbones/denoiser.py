"""A diffusion backbone ready to run: network, noise process, and the reading of its blocks' activations."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from harness.core.config import read_json
from harness.models.autoencoders.autoencoder import autoencoder_of
from harness.models.backbones.condition_tensors import read_condition
from harness.models.backbones.family import (
    Family,
    family_named,
    family_of,
    network_folders,
    open_weights,
    refuse_unread,
)
from harness.models.backbones.pipeline import CONFIG, INDEX, Pipeline
from harness.models.noise_processes.process import PLACE, NoiseProcess, load_process

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
        condition: Mapping[str, torch.Tensor] | None = None,
        self_conditioned: bool = False,
    ) -> None:
        """`condition` has the tensors of one image, without a batch dimension.

        Without an `autoencoder`, noise is added to the images themselves. A self-conditioned network also reads its
        own estimate of the clean image.
        """
        self.family = family
        self.network: Any = network.eval().requires_grad_(False)
        self.process = process
        self.autoencoder: Any = None if autoencoder is None else autoencoder.eval().requires_grad_(False)
        self.self_conditioned = self_conditioned
        self.device = torch.device("cpu")
        self._condition = dict(condition or {})

    def to(self, device: torch.device) -> Self:
        """Moves it to `device`; on GPUs in channels-last format, the fastest for convolutions."""
        for module in (self.network, self.autoencoder):
            if module is not None:
                module.to(device)
                if device.type == "cuda":
                    module.to(memory_format=torch.channels_last)
        self._condition = {name: value.to(device) for name, value in self._condition.items()}
        self.device = device
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the network's weights are held."""
        return next(iter(self.network.parameters())).dtype

    @property
    def bound(self) -> float | None:
        """The largest absolute value that `encode` returns; None if there is no bound."""
        return 1.0 if self.autoencoder is None else None

    def encode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns what noise is added to, for images [B, C, H, W] in [-1, 1]."""
        if self.autoencoder is None:
            return x_BCHW
        return autoencoder_of(self.autoencoder.config).encode(self.autoencoder, x_BCHW)

    def decode(self, z_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns images in [-1, 1], the inverse of `encode`."""
        if self.autoencoder is None:
            return z_BCHW
        return autoencoder_of(self.autoencoder.config).decode(self.autoencoder, z_BCHW)

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
        """Returns the input of `run`: for self-conditioned ones, with the estimate (or zeros) as further channels."""
        if not self.self_conditioned:
            return z_BCHW
        return torch.cat([z_BCHW, torch.zeros_like(z_BCHW) if estimate_BCHW is None else estimate_BCHW], 1)

    def run(self, z_BCHW: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network under its condition on what `conditioned` returned; returns all its outputs, in float32.

        Scales the noised samples for the network; the estimate of a self-conditioned one stays as it is.
        """
        if self.self_conditioned:
            noised_BCHW, estimate_BCHW = z_BCHW.chunk(2, 1)
            given_BCHW = torch.cat([self.process.scaled(noised_BCHW, steps_B), estimate_BCHW], 1)
        else:
            given_BCHW = self.process.scaled(z_BCHW, steps_B)
        dtype = self.dtype
        condition = {
            name: (value.to(dtype) if value.is_floating_point() else value).expand(len(z_BCHW), *value.shape)
            for name, value in self._condition.items()
        }
        out_BCHW = self.family.run(self.network, given_BCHW.to(dtype), self.process.time(steps_B), condition)
        return out_BCHW.float()

    def reader(self, modules: Sequence[str]) -> "ActivationReader":
        """Returns a reader of the outputs of `modules`. Call `remove` after use."""
        return ActivationReader(self, modules)


class _Enough(Exception):
    """Ends a forward pass after the last requested module."""


class ActivationReader:
    """Reads the outputs of named modules in one forward pass that stops when all of them have run."""

    def __init__(self, denoiser: Denoiser, modules: Sequence[str]) -> None:
        self._denoiser, self._wanted = denoiser, len(set(modules))
        self._activations: dict[str, torch.Tensor] = {}
        self._z_BCHW = torch.empty(0)
        self._hooks = [
            denoiser.network.get_submodule(name).register_forward_hook(self._hook(name)) for name in modules
        ]

    def remove(self) -> None:
        """Removes the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            family, network = self._denoiser.family, self._denoiser.network
            self._activations[name] = family.as_map(network, name, output, self._z_BCHW)
            if len(self._activations) == self._wanted:
                raise _Enough

        return keep

    def __call__(self, z_BCHW: torch.Tensor, timestep: int | torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns activations [B, C', H', W'] by module name, for inputs noised to `timestep` (one, or [B])."""
        self._activations, self._z_BCHW = {}, z_BCHW
        timesteps_B = torch.as_tensor(timestep, device=z_BCHW.device).expand(len(z_BCHW))
        try:
            self._denoiser.run(self._denoiser.conditioned(z_BCHW), timesteps_B)
        except _Enough:
            return self._activations
        raise RuntimeError("a block was never reached: its module did not run")


def save_pipeline(network: Any, process: NoiseProcess, folder: Path, self_conditioned: bool = False) -> None:
    """Writes an artifact's folder, weights in safetensors: a diffusers pipeline, if there is one for the family."""
    family = family_named(type(network).__name__)
    network.save_pretrained(folder / family.folder, safe_serialization=True)
    save_frame(family, process, folder, self_conditioned)


def save_frame(family: Family, process: NoiseProcess, folder: Path, self_conditioned: bool = False) -> None:
    """Writes what turns a network's folder into a pipeline: the scheduler and the index."""
    process.save(folder)
    index = family.index(folder)
    if index is not None:
        if "scheduler" in index:
            index["scheduler"] = ["diffusers", read_json(folder / PLACE)["_class_name"]]
        mark = {SELF_CONDITIONED: True} if self_conditioned else {}
        (folder / INDEX).write_text(json.dumps(index | mark))


def load_denoiser(folder: Path, condition: Path | None = None, device: torch.device = CPU) -> Denoiser:
    """Opens a backbone from its artifact's folder, under the condition that another folder, or its own, holds.

    The network's weights go directly to `device`.
    """
    pipeline = Pipeline(folder)
    place = pipeline.network(network_folders())
    if place == folder:
        refuse_unread(folder)
    family = family_of(read_json(place / CONFIG))
    index = pipeline.file(INDEX)
    return Denoiser(
        family,
        family.open_network(folder, device),
        load_process(folder),
        autoencoder=open_autoencoder(family, folder),
        condition=read_condition(condition or folder),
        self_conditioned=index is not None and read_json(index).get(SELF_CONDITIONED, False),
    ).to(device)


def open_autoencoder(family: Family, folder: Path) -> Any:
    """Opens the autoencoder of an artifact, in float32; None if it has none."""
    place = next((folder / name for name in family.autoencoders if (folder / name).is_dir()), None)
    return None if place is None else open_weights(autoencoder_of(read_json(place / CONFIG)).network, place)
