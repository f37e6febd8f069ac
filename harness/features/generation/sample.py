"""Sampling: from noise to images, with DDPM's ancestral steps or DDIM's deterministic ones.

The initial noise of sample i depends only on (seed, i), that of a DDPM step on (seed, i, timestep), so shards,
batches and workers change samples only by rounding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from harness.core.progress import Progress
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage
from harness.features.extract import open_denoiser
from harness.models import sampling
from harness.models.backbones.denoiser import Denoiser
from harness.models.finite import refuse_infinite
from harness.training import noise

FILE = "samples.safetensors"


def make_samples(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the samples of one shard, uint8 [N, C, H, W]."""
    settings = stage.config
    denoiser = open_denoiser(stage.needs["backbone"], context)
    begin, end = stage.part["samples"]
    size = stage.options["batch"]
    parts = []
    for first in range(begin, end, size):
        context.progress(stage.kind, stage.key, Progress(first - begin, end - begin, "samples"))
        number_B = torch.arange(first, min(first + size, end), device=denoiser.device)
        x_BCHW = sample(
            denoiser,
            number_B,
            tuple(settings["shape"]),
            steps=settings["steps"],
            ancestral=settings["sampler"] == "ddpm",
            seed=settings["seed"],
        )
        refuse_infinite(x_BCHW, "samples")
        parts.append(as_grey_levels(x_BCHW).cpu())
    save_file({"samples": torch.cat(parts).contiguous()}, folder / FILE)


def as_grey_levels(x: torch.Tensor) -> torch.Tensor:
    """Maps [-1, 1] to the nearest of 0..255, uint8: the inverse of `harness.data.transforms.as_input`."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    number_B: torch.Tensor,
    shape: Sequence[int],
    *,
    steps: int,
    ancestral: bool,
    seed: int,
) -> torch.Tensor:
    """Returns the images [B, C, H, W] in [-1, 1] with these sample numbers; `shape` is an image's.

    A self-conditioned backbone reads the estimate of the previous step, at first zeros (Chen et al. 2022,
    algorithm 2).
    """
    latent = denoiser.encode(torch.zeros(1, *shape, device=denoiser.device))
    address_B3 = torch.stack([number_B, torch.zeros_like(number_B), torch.zeros_like(number_B)], 1)
    size = tuple(latent.shape[1:])

    def fresh(step: int) -> torch.Tensor:
        address_B3[:, 1] = step
        return noise.normal(derive_seed(seed, "ancestral"), address_B3, size)

    z_BCHW = sampling.sample(
        denoiser.process,
        denoiser.predict,
        noise.normal(derive_seed(seed, "sample"), address_B3, size),
        steps=steps,
        fresh=fresh if ancestral else None,
        clip=denoiser.bound,
    )
    return denoiser.decode(z_BCHW)
