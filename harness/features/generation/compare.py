"""Compares samples with real images in an encoder's space: Fréchet and kernel distances, and a grid of samples."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from harness.core.seeds import rng
from harness.core.stages import Context, Stage, Trial
from harness.data.contact import grid
from harness.data.dataset import open_dataset
from harness.data.transforms import as_input
from harness.features.generation.sample import FILE
from harness.metrics.frechet import Moments, frechet, kernel_distance
from harness.models.encoders.encoder import OpenEncoder, open_encoder
from harness.models.finite import refuse_infinite
from harness.training.device import pick_device

ENCODED = "encoded.safetensors"
BATCH = 256  # samples encoded at once
KERNEL_IMAGES = 10_000  # largest number per side: the kernel distance needs vectors, and 10,000 suffice
GRID = 64  # samples shown


class Encoded(NamedTuple):
    """Statistics of encoded images, of a size independent of their number."""

    moments: Moments
    vectors_ND: np.ndarray  # float32, of the first `KERNEL_IMAGES`


def make_encoded(stage: Stage, folder: Path, context: Context) -> None:
    """Writes moments and vectors of the first images of a split."""
    dataset = open_dataset(stage.needs["dataset"], context)
    places = dataset.splits[stage.config["split"]][: stage.config["images"]]
    size = stage.options["batch"]
    batches = (dataset.images[places[begin : begin + size]] for begin in range(0, len(places), size))
    moments, vectors_ND = encode(batches, _encoder(stage.needs["encoder"], context))
    arrays = {"n": np.array([moments.n]), "mean": moments.mean_D, "scatter": moments.scatter_DD}
    save_file({**arrays, "vectors": vectors_ND}, folder / ENCODED)


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `generation`."""
    samples = encode(
        (batch for stage in trial.reads["samples"] for batch in _drawn(context.file(stage, FILE))),
        _encoder(trial.needs["encoder"], context),
    )
    real = _read(trial.reads["real"][0], context)
    kernel = kernel_distance(samples.vectors_ND, real.vectors_ND, rng(trial.seed, "kernel distance"))
    row = {
        "frechet": frechet(samples.moments, real.moments),
        "frechet_real": None,
        "kernel": kernel.mean,
        "kernel_deviation": kernel.deviation,
        "grid": grid(_first(trial.reads["samples"], context, GRID)),
    }
    if "held_out" in trial.reads:
        row["frechet_real"] = frechet(_read(trial.reads["held_out"][0], context).moments, real.moments)
    return {"generation": [row]}


@torch.no_grad()
def encode(batches: Iterable[np.ndarray], encoder: "_Encoder") -> Encoded:
    """Returns statistics of images, batches of uint8 [N, C, H, W], from one pass in bounded memory."""
    moments: Moments | None = None
    kept: list[np.ndarray] = []
    held = 0
    for images_NCHW in batches:
        x_NCHW = as_input(torch.from_numpy(np.ascontiguousarray(images_NCHW)).to(encoder.device))
        vectors_ND = encoder.model.pooled(x_NCHW).float().cpu().numpy()
        refuse_infinite(vectors_ND, "encoded images")
        found = Moments.of(vectors_ND)
        moments = found if moments is None else moments + found
        if held < KERNEL_IMAGES:
            kept.append(vectors_ND[: KERNEL_IMAGES - held])
            held += len(kept[-1])
    if moments is None:
        raise ValueError("no images to encode")
    return Encoded(moments, np.concatenate(kept))


class _Encoder(NamedTuple):
    model: OpenEncoder
    device: torch.device


def _encoder(stage: Stage, context: Context) -> _Encoder:
    device = pick_device(context)
    return _Encoder(open_encoder(stage, context, device), device)


def _read(stage: Stage, context: Context) -> Encoded:
    arrays = load_file(context.file(stage, ENCODED))
    moments = Moments(int(arrays["n"][0]), arrays["mean"], arrays["scatter"])
    return Encoded(moments, arrays["vectors"])


def _drawn(path: Path) -> Iterator[np.ndarray]:
    """Yields a shard's samples, batch by batch."""
    with safe_open(path, framework="numpy") as file:
        samples = file.get_slice("samples")
        count = samples.get_shape()[0]
        for begin in range(0, count, BATCH):
            yield samples[begin : min(begin + BATCH, count)]


def _first(shards: tuple[Stage, ...], context: Context, count: int) -> np.ndarray:
    """Returns the first samples, uint8 [N, C, H, W]."""
    parts: list[np.ndarray] = []
    for stage in shards:
        if sum(map(len, parts)) >= count:
            break
        parts.append(next(_drawn(context.file(stage, FILE))))
    return np.concatenate(parts)[:count]
