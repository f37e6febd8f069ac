"""Extraction: noise the images, run the U-Net once, keep every block at every pool.

The noise of image i at timestep t and draw d depends on (seed, i, t, d) alone.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from harness.core.seeds import stream
from harness.core.stages import Stage, Workshop
from harness.data.dataset import open_dataset
from harness.data.transforms import as_input
from harness.models.denoiser import Denoiser, load_denoiser
from harness.training import noise
from harness.training.device import pick_device

FILE = "features.safetensors"


def make_features(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes the features of `stage`, and publishes those of its siblings that are missing, from one pass.

    A stage holds one shard: the probed images from one place to another.
    """
    began = time.monotonic()
    wanted = [stage, *(sibling for sibling in stage.siblings if not workshop.has(sibling))]
    wanted.sort(key=lambda one: one.config["block"])
    dataset = open_dataset(stage.needs["dataset"], workshop)
    denoiser = open_denoiser(stage.needs["backbone"], workshop)
    begin, end = stage.config["images"]
    features = extract(
        denoiser,
        dataset.images,
        dataset.probed(stage.config["labels_per_class"])[begin:end],
        timestep=stage.config["timestep"],
        taps=[(one.config["module"], one.config["pool"]) for one in wanted],
        draws=stage.config["draws"],
        seed=stage.config["seed"],
        batch=stage.options["batch"],
    )
    for one in wanted:
        place = folder if one is stage else folder.parent / one.key
        place.mkdir(exist_ok=True)
        save_file({"features": features[one.config["module"], one.config["pool"]]}, place / FILE)
        if one is not stage:
            workshop.publish(one, place, time.monotonic() - began)


def open_denoiser(stage: Stage, workshop: Workshop) -> Denoiser:
    """Reads a backbone; the last one is kept, for the next shard of the same process."""
    if stage.key not in _opened:
        _opened.clear()
        _opened[stage.key] = load_denoiser(workshop.folder(stage))
    return _opened[stage.key].to(pick_device(workshop))


_opened: dict[str, Denoiser] = {}


@torch.no_grad()
def extract(
    denoiser: Denoiser,
    images_NCHW: np.ndarray,
    index_M: np.ndarray,
    *,
    timestep: int,
    taps: Sequence[tuple[str, int]],
    draws: int,
    seed: int,
    batch: int,
) -> Mapping[tuple[str, int], torch.Tensor]:
    """Returns features [M, C', pool, pool] by (module, pool) for the images at `index_M` (uint8).

    One forward pass an image and draw, which ends at the deepest module: `taps` are in the order in which the
    modules run.
    """
    device = denoiser.device
    read = denoiser.taps(list(dict.fromkeys(module for module, _ in taps)))
    kept: dict[tuple[str, int], list[torch.Tensor]] = {tap: [] for tap in taps}
    for begin in range(0, len(index_M), batch):
        index_B = torch.from_numpy(index_M[begin : begin + batch])
        z_BCHW = denoiser.encode(as_input(torch.from_numpy(images_NCHW[index_B.numpy()]).to(device)))
        sums: dict[tuple[str, int], torch.Tensor] = {}
        for draw in range(draws):
            noised_BCHW = add_noise(denoiser, z_BCHW, index_B.to(device), timestep, draw, seed)
            activations = read(noised_BCHW, timestep)
            for module, pool in taps:
                pooled = torch.nn.functional.adaptive_avg_pool2d(activations[module].float(), pool) / draws
                sums[module, pool] = sums[module, pool] + pooled if draw else pooled
        for tap, value in sums.items():
            kept[tap].append(value.cpu())
    read.remove()
    return {tap: torch.cat(values).contiguous() for tap, values in kept.items()}


def add_noise(
    denoiser: Denoiser, z_BCHW: torch.Tensor, index_B: torch.Tensor, timestep: int, draw: int, seed: int
) -> torch.Tensor:
    """Returns `z_BCHW` noised to `timestep` with the noise of these very images and this draw."""
    address_B3 = torch.stack([index_B, torch.full_like(index_B, timestep), torch.full_like(index_B, draw)], 1)
    epsilon = noise.normal(stream(seed, "features"), address_B3, tuple(z_BCHW.shape[1:]))
    return denoiser.noised(z_BCHW, epsilon, torch.full((len(z_BCHW),), timestep, device=z_BCHW.device))
