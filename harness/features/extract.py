"""Extraction: noise the images, run the U-Net once, keep every block at every pool.

The noise of image i at timestep t and draw d depends on (seed, i, t, d) alone.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import save_file

from harness.core.seeds import stream
from harness.core.stages import Stage, Workshop
from harness.data.dataset import open_dataset
from harness.data.transforms import as_input
from harness.models.backbone import blocks
from harness.models.unet import Taps, load_pipeline
from harness.training import noise
from harness.training.device import pick_device

FILE = "features.safetensors"


def make_features(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes the features of `stage`, and publishes those of its siblings that are missing, from one pass.

    A stage holds one shard: the probed images from one place to another.
    """
    began = time.monotonic()
    wanted = [stage, *(sibling for sibling in stage.siblings if not workshop.has(sibling))]
    dataset = open_dataset(stage.needs["dataset"], workshop)
    unet, scheduler = _pipeline(stage.needs["backbone"], workshop)
    begin, end = stage.config["images"]
    features = extract(
        unet,
        scheduler,
        dataset.images,
        dataset.probed(stage.config["labels_per_class"])[begin:end],
        timestep=stage.config["timestep"],
        taps=[(one.config["module"], one.config["pool"]) for one in wanted],
        draws=stage.config["draws"],
        seed=stage.config["seed"],
        batch=stage.options["batch"],
        device=pick_device(workshop),
    )
    for one in wanted:
        place = folder if one is stage else folder.parent / one.key
        place.mkdir(exist_ok=True)
        save_file({"features": features[one.config["module"], one.config["pool"]]}, place / FILE)
        if one is not stage:
            workshop.publish(one, place, time.monotonic() - began)


def _pipeline(stage: Stage, workshop: Workshop) -> tuple[UNet2DModel, DDPMScheduler]:
    """Reads a backbone; the last one is kept, for the next shard of the same process."""
    if stage.key not in _pipelines:
        _pipelines.clear()
        _pipelines[stage.key] = load_pipeline(workshop.folder(stage))
    return _pipelines[stage.key]


_pipelines: dict[str, tuple[UNet2DModel, DDPMScheduler]] = {}


@torch.no_grad()
def extract(
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    images_NCHW: np.ndarray,
    index_M: np.ndarray,
    *,
    timestep: int,
    taps: Sequence[tuple[str, int]],
    draws: int,
    seed: int,
    batch: int,
    device: torch.device,
) -> Mapping[tuple[str, int], torch.Tensor]:
    """Returns features [M, C', pool, pool] by (module, pool) for the images at `index_M` (uint8).

    One forward pass an image and draw, which ends at the deepest module.
    """
    order = {block.name: block.number for block in blocks(unet.config)}
    modules = sorted({module for module, _ in taps}, key=order.__getitem__)
    unet = unet.to(device)
    if device.type == "cuda":
        unet = unet.to(memory_format=torch.channels_last)
    read = Taps(unet, modules)
    kept: dict[tuple[str, int], list[torch.Tensor]] = {tap: [] for tap in taps}
    for begin in range(0, len(index_M), batch):
        index_B = torch.from_numpy(index_M[begin : begin + batch])
        x_BCHW = as_input(torch.from_numpy(images_NCHW[index_B.numpy()]).to(device))
        sums: dict[tuple[str, int], torch.Tensor] = {}
        for draw in range(draws):
            activations = read(
                add_noise(x_BCHW, index_B.to(device), timestep, draw, seed, scheduler), timestep
            )
            for module, pool in taps:
                pooled = torch.nn.functional.adaptive_avg_pool2d(activations[module].float(), pool) / draws
                sums[module, pool] = sums[module, pool] + pooled if draw else pooled
        for tap, value in sums.items():
            kept[tap].append(value.cpu())
    read.remove()
    return {tap: torch.cat(values).contiguous() for tap, values in kept.items()}


def add_noise(
    x_BCHW: torch.Tensor,
    index_B: torch.Tensor,
    timestep: int,
    draw: int,
    seed: int,
    scheduler: DDPMScheduler,
) -> torch.Tensor:
    """Returns sqrt(a) x + sqrt(1 - a) epsilon (Ho et al. 2020, equation 4) with the noise of these very images."""
    address_B3 = torch.stack([index_B, torch.full_like(index_B, timestep), torch.full_like(index_B, draw)], 1)
    epsilon = noise.normal(stream(seed, "features"), address_B3, tuple(x_BCHW.shape[1:]))
    timesteps_B = torch.full((len(x_BCHW),), timestep, device=x_BCHW.device)
    return scheduler.add_noise(x_BCHW, epsilon, timesteps_B)
