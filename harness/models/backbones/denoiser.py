"""A diffusion backbone ready to run: its network, its noise schedule, and how activations of its blocks are read."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file
from torch import nn

from harness.models.backbones.blocks import PROMPTED, TRANSFORMER, UNET
from harness.models.backbones.pretrained import PROMPT

SELF_CONDITIONED = "_self_conditioned"  # in model_index.json: diffusers leaves names with a low line alone
NETWORKS = {UNET: UNet2DModel, PROMPTED: UNet2DConditionModel, TRANSFORMER: DiTTransformer2DModel}
FOLDERS = {UNET: "unet", PROMPTED: "unet", TRANSFORMER: "transformer"}  # of a pipeline


class Denoiser:
    """What every diffusion backbone looks like from outside, whatever network it is.

    Noise is added to what `encode` returns: the images themselves, or a VAE's latents of them. Frozen, in
    evaluation mode.
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: DDPMScheduler,
        self_conditioned: bool = False,
        vae: AutoencoderKL | None = None,
    ) -> None:
        """A self-conditioned network reads its own estimate of the clean image beside the noised one."""
        self.network: Any = network.eval().requires_grad_(False)
        self.vae: Any = None if vae is None else vae.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.self_conditioned = self_conditioned
        self.alphas_cumprod_T = scheduler.alphas_cumprod  # of Ho et al. 2020; float32, T entries
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        """Moves it to `device`; on GPUs to channels-last, which convolutions run fastest on."""
        for module in (self.network, self.vae):
            if module is not None:
                module.to(device)
                if device.type == "cuda":
                    module.to(memory_format=torch.channels_last)
        self.device = device
        return self

    def encode(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns what noise is added to, for images [B, C, H, W] in [-1, 1]: the mode of their scaled latents.

        Float32 under autocast too: in bfloat16 the schedule's first steps would round to no noise at all.
        """
        if self.vae is None:
            return x_BCHW
        return self.vae.encode(x_BCHW).latent_dist.mode().float() * self.vae.config.scaling_factor

    def decode(self, z_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns images in [-1, 1], the way back from `encode`."""
        if self.vae is None:
            return z_BCHW
        return self.vae.decode(z_BCHW / self.vae.config.scaling_factor).sample

    def noised(
        self, z_BCHW: torch.Tensor, epsilon_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """Returns sqrt(a) z + sqrt(1 - a) epsilon (Ho et al. 2020, equation 4) at each image's timestep."""
        return self.scheduler.add_noise(z_BCHW, epsilon_BCHW, timesteps_B)

    def __call__(
        self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor, estimate_BCHW: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the predicted noise [B, C, H, W], whatever the network predicts; a learnt variance is dropped.

        A self-conditioned network is given the estimate of the clean images, or zeros; others do without.
        """
        given = self.conditioned(z_BCHW, estimate_BCHW)
        return self._noise(self.run(given, timesteps_B)[:, : z_BCHW.shape[1]], z_BCHW, timesteps_B)

    def _noise(
        self, predicted_BCHW: torch.Tensor, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor
    ) -> torch.Tensor:
        """Returns the noise that a prediction stands for: of v (Salimans and Ho 2022, section 4), or of the image."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return predicted_BCHW
        left_B111 = self.alphas_cumprod_T.to(z_BCHW.device)[timesteps_B].reshape(-1, 1, 1, 1)
        if kind == "v_prediction":
            return left_B111.sqrt() * predicted_BCHW + (1 - left_B111).sqrt() * z_BCHW
        return (z_BCHW - left_B111.sqrt() * predicted_BCHW) / (1 - left_B111).sqrt()

    def conditioned(self, z_BCHW: torch.Tensor, estimate_BCHW: torch.Tensor | None = None) -> torch.Tensor:
        """Returns what the network reads: beside what is noised the estimate, zeros for none, where it is read."""
        if not self.self_conditioned:
            return z_BCHW
        return torch.cat([z_BCHW, torch.zeros_like(z_BCHW) if estimate_BCHW is None else estimate_BCHW], 1)

    def run(self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network with the condition that means none; returns all its output channels."""
        return self.network(z_BCHW, timesteps_B).sample

    def as_map(self, activation: torch.Tensor) -> torch.Tensor:
        """Returns a block's output as a feature map [B, C', H', W']."""
        return activation

    def taps(self, modules: Sequence[str]) -> "Taps":
        """Returns what reads the outputs of `modules`, named in the order in which they run. Call `remove` after."""
        return Taps(self, modules)


class Prompted(Denoiser):
    """A network that reads a prompt, which is empty here."""

    def __init__(
        self, network: nn.Module, scheduler: DDPMScheduler, vae: AutoencoderKL, prompt_MD: torch.Tensor
    ) -> None:
        """`prompt_MD` is the text encoder's embedding of the empty prompt."""
        super().__init__(network, scheduler, vae=vae)
        self._prompt_MD = prompt_MD

    def to(self, device: torch.device) -> Self:
        """As every denoiser, with the prompt."""
        self._prompt_MD = self._prompt_MD.to(device)
        return super().to(device)

    def run(self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network with the empty prompt."""
        prompt_BMD = self._prompt_MD.expand(len(z_BCHW), -1, -1)
        return self.network(z_BCHW, timesteps_B, prompt_BMD).sample


class Transformer(Denoiser):
    """A transformer over patches of latents, given the label that means no class: the table's last."""

    def run(self, z_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Runs the network with the null label."""
        labels_B = torch.full_like(timesteps_B, self.network.config.num_embeds_ada_norm)
        return self.network(z_BCHW, timesteps_B, labels_B).sample

    def as_map(self, activation: torch.Tensor) -> torch.Tensor:
        """Returns tokens [B, H' * W', C'] as a map [B, C', H', W']."""
        size = self.network.config.sample_size // self.network.config.patch_size
        return activation.transpose(1, 2).unflatten(2, (size, size))


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
            self._denoiser.run(self._denoiser.conditioned(z_BCHW), timesteps_B)
        except _Enough:
            return self._activations
        raise RuntimeError("the deepest block was never reached: its module did not run")


def build_unet(config: Mapping[str, Any]) -> UNet2DModel:
    """Returns an untrained `UNet2DModel`, initialised from torch's current random state."""
    return UNet2DModel.from_config(dict(config))


def build_network(config: Mapping[str, Any]) -> Any:
    """Returns an untrained network or VAE of the class that its config.json names."""
    kinds = {**NETWORKS, "AutoencoderKL": AutoencoderKL}
    return kinds[config.get("_class_name", UNET)].from_config(dict(config))


def save_pipeline(
    unet: UNet2DModel, scheduler: Mapping[str, Any], folder: Path, self_conditioned: bool = False
) -> None:
    """Writes a folder that diffusers' `DDPMPipeline.from_pretrained` reads, weights in safetensors."""
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    save_frame(scheduler, folder, self_conditioned)


def save_frame(scheduler: Mapping[str, Any], folder: Path, self_conditioned: bool = False) -> None:
    """Writes what makes a folder with a U-Net a pipeline: the scheduler and the index."""
    save_scheduler(scheduler, folder)
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    mark = {SELF_CONDITIONED: True} if self_conditioned else {}
    (folder / "model_index.json").write_text(json.dumps(index | mark))


def save_scheduler(scheduler: Mapping[str, Any], folder: Path) -> None:
    """Writes a schedule where `load_denoiser` finds it."""
    DDPMScheduler.from_config(dict(scheduler)).save_pretrained(folder / "scheduler")


def load_denoiser(folder: Path) -> Denoiser:
    """Reads the folder of a backbone's artifact: a pipeline of diffusers, without its text encoder."""
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    if (folder / FOLDERS[TRANSFORMER]).is_dir():
        return Transformer(_loaded(TRANSFORMER, folder), scheduler, vae=_loaded_vae(folder))
    settings = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    if settings.get("_class_name") == PROMPTED:
        prompt_MD = load_file(folder / PROMPT)["embedding"]
        return Prompted(_loaded(PROMPTED, folder), scheduler, _loaded_vae(folder), prompt_MD)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return Denoiser(_loaded(UNET, folder), scheduler, self_conditioned=index.get(SELF_CONDITIONED, False))


def _loaded(kind: str, folder: Path) -> Any:
    """Reads a network; in float32, whatever its file holds."""
    return _from(NETWORKS[kind], folder / FOLDERS[kind])


def _loaded_vae(folder: Path) -> AutoencoderKL:
    return _from(AutoencoderKL, folder / "vae")


def _from(kind: Any, folder: Path) -> Any:
    return kind.from_pretrained(
        folder, use_safetensors=True, low_cpu_mem_usage=False, torch_dtype=torch.float32
    )
