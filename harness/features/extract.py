"""Extraction: add noise to the images, run the backbone once, and store every block at every pool.

The noise of image i at timestep t and draw d depends only on (seed, i, t, d).
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from harness.core.recent import Recent
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage
from harness.data.dataset import open_dataset
from harness.data.shards import ImageArray
from harness.data.transforms import as_input
from harness.models.backbones.denoiser import CPU, Denoiser, load_denoiser
from harness.training import noise
from harness.training.augment import augmented
from harness.training.config import Augment
from harness.training.device import pick_device

FILE = "features.safetensors"
ModulePool = tuple[str, int]  # a module, and the pool to which its output is averaged, or `WHOLE`
WHOLE = 0  # instead of a pool: the map as it is


def make_features(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the features of `stage`, and publishes those of its missing siblings, from one pass.

    A stage holds one shard: a range of the probed images, or of another view of the labelled ones.
    """
    began = time.monotonic()
    wanted = [stage, *(sibling for sibling in stage.siblings if not context.has(sibling))]
    wanted.sort(key=lambda one: one.config["block"])
    denoiser = open_denoiser(stage.needs["backbone"], context)
    features = extract(
        denoiser,
        open_dataset(stage.needs["dataset"], context).images,
        images_of(stage, context),
        timestep=stage.config["timestep"],
        taps=[(one.config["module"], one.part["pool"]) for one in wanted],
        noised=stage.config["noise"] == "fresh",
        draws=stage.config["draws"],
        view=stage.config["view"],
        augment=stage.config["augment"] and Augment(**stage.config["augment"]),
        precision=stage.config["precision"],
        seed=stage.config["seed"],
        batch=stage.options["batch"],
    )
    for one in wanted:
        place = folder if one is stage else folder.parent / one.key
        place.mkdir(exist_ok=True)
        save_file(
            {"features": features.pop((one.config["module"], one.part["pool"]))},
            place / FILE,
            metadata={"precision": used_precision(stage.config["precision"], denoiser)},
        )
        if one is not stage:
            context.publish(one, place, time.monotonic() - began)


def images_of(stage: Stage, context: Context) -> np.ndarray:
    """Returns the indices into the data set of a shard's images [M]."""
    dataset = open_dataset(stage.needs["dataset"], context)
    begin, end = stage.part["images"]
    per_class = stage.config["labels_per_class"]
    if "screened" in stage.config:
        dataset, per_class = dataset.thinned(per_class, stage.config["screened"]), None
    found = dataset.labelled(per_class) if stage.config["view"] else dataset.probed(per_class)
    return found[begin:end]


def open_denoiser(stage: Stage, context: Context) -> Denoiser:
    """Opens a backbone; the last one opened stays in memory for the next shard in the same process."""
    device = pick_device(context)
    return _opened.get(stage.key, lambda: load_backbone(stage, context, device)).to(device)


def load_backbone(stage: Stage, context: Context, device: torch.device = CPU) -> Denoiser:
    """Opens a new copy of a backbone on a device, under its condition if it has one."""
    network = stage.needs.get("network", stage)
    condition = None if network is stage else context.folder(stage)
    return load_denoiser(context.folder(network), condition, device)


_opened = Recent[Denoiser]()


def extract(
    denoiser: Denoiser, images_NCHW: ImageArray, index_M: np.ndarray, **reading: Any
) -> dict[ModulePool, torch.Tensor]:
    """Returns features [M, C', pool, pool] by (module, pool); `reading` is passed to `read_blocks`."""
    found: dict[ModulePool, torch.Tensor] = {}
    for begin, features in read_blocks(denoiser, images_NCHW, index_M, **reading):
        for tap, value in features.items():
            if tap not in found:
                found[tap] = torch.empty((len(index_M), *value.shape[1:]))
            found[tap][begin : begin + len(value)] = value
    return found


@torch.no_grad()
def read_blocks(
    denoiser: Denoiser,
    images_NCHW: ImageArray,
    index_M: np.ndarray,
    *,
    timestep: int,
    taps: Sequence[ModulePool],
    draws: int,
    seed: int,
    batch: int,
    noised: bool = True,
    view: int = 0,
    augment: Augment | None = None,
    precision: str = "float32",
    names_M: np.ndarray | None = None,
) -> Iterator[tuple[int, dict[ModulePool, torch.Tensor]]]:
    """Yields (position in `index_M`, features [B, C', pool, pool] by (module, pool)) of images `index_M` (uint8).

    Maps of the pool `WHOLE` are [B, C', H', W'].

    Takes one forward pass per image and draw, up to the deepest module. View v has draws v * draws to
    (v + 1) * draws - 1, each with its own crop and flip if `augment` is given.
    The noise of an image is addressed by its index in the data set, or by `names_M` if given; unless `noised` there
    is none, though the network is told the timestep (Stracke et al. 2024, arXiv 2412.03439).
    """
    names_M = index_M if names_M is None else names_M
    read = denoiser.reader(list(dict.fromkeys(module for module, _ in taps)))
    try:
        for begin, x_BCHW in batches(images_NCHW, index_M, batch, denoiser.device):
            index_B = torch.from_numpy(names_M[begin : begin + batch]).to(denoiser.device)
            sums: dict[ModulePool, torch.Tensor] = {}
            for draw in range(view * draws, (view + 1) * draws):
                seen_BCHW = x_BCHW
                if augment is not None:
                    seen_BCHW = augmented(
                        x_BCHW, derive_seed(seed, "views"), addresses(index_B, timestep, draw), augment
                    )
                with autocast(precision, denoiser):
                    z_BCHW = denoiser.encode(seen_BCHW)
                    if noised:
                        z_BCHW = add_noise(denoiser, z_BCHW, index_B, timestep, draw, seed)
                    activations = read(z_BCHW, timestep)
                for module, pool in taps:
                    pooled = activations[module].float()
                    if pool != WHOLE:
                        pooled = torch.nn.functional.adaptive_avg_pool2d(pooled, pool)
                    pooled = pooled / draws
                    sums[module, pool] = sums[module, pool] + pooled if (module, pool) in sums else pooled
            yield begin, sums
    finally:
        read.remove()


def batches(
    images_NCHW: ImageArray, index_M: np.ndarray, batch: int, device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (position in `index_M`, images [B, C, H, W] in [-1, 1] on `device`); reads the next batch meanwhile."""

    def read(begin: int) -> torch.Tensor:
        chosen = torch.from_numpy(images_NCHW[index_M[begin : begin + batch]])
        return chosen.pin_memory() if device.type == "cuda" else chosen

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0)
        for begin in range(0, len(index_M), batch):
            chosen = coming.result()
            if begin + batch < len(index_M):
                coming = reader.submit(read, begin + batch)
            yield begin, as_input(chosen.to(device, non_blocking=True))


def used_precision(precision: str, denoiser: Denoiser) -> str:
    """Returns the precision of a frozen backbone's passes.

    That of its weights if they are held in half precision; else "auto" is bfloat16 on a GPU that supports it.
    """
    if denoiser.dtype != torch.float32:
        return str(denoiser.dtype).removeprefix("torch.")
    wanted = precision == "bfloat16" or (
        precision == "auto" and denoiser.device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return "bfloat16" if wanted else "float32"


def autocast(precision: str, denoiser: Denoiser) -> AbstractContextManager[Any]:
    """Returns the autocast context of a frozen backbone; weights in half precision need none."""
    if denoiser.dtype != torch.float32 or used_precision(precision, denoiser) == "float32":
        return nullcontext()
    return torch.autocast(denoiser.device.type, torch.bfloat16)


def addresses(index_B: torch.Tensor, timestep: int, draw: int) -> torch.Tensor:
    """Returns the addresses of images' random numbers: (image, timestep, draw), int64 [B, 3]."""
    return torch.stack([index_B, torch.full_like(index_B, timestep), torch.full_like(index_B, draw)], 1)


def add_noise(
    denoiser: Denoiser, z_BCHW: torch.Tensor, index_B: torch.Tensor, timestep: int, draw: int, seed: int
) -> torch.Tensor:
    """Returns `z_BCHW` noised to `timestep` with the noise of these images at this draw."""
    address_B3 = addresses(index_B, timestep, draw)
    epsilon = noise.normal(derive_seed(seed, "features"), address_B3, tuple(z_BCHW.shape[1:]))
    return denoiser.noised(z_BCHW, epsilon, torch.full((len(z_BCHW),), timestep, device=z_BCHW.device))
