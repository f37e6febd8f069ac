"""The pairs of data set and backbone on which `benchmarks/search.py` compares searches.

`search: auto` was designed on those `tuned` on; the others are held out: nothing was tuned on them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.data.config import DataConfig
from harness.data.dataset import load
from harness.data.transforms import as_input
from harness.models.noise_processes.process import process_of

ANIMALS, VEHICLES = ["2", "3", "4", "5", "6", "7"], ["0", "1", "8", "9"]  # classes of CIFAR-10
TIMESTEPS = [5, 20, 50, 100, 200, 350, 500, 700]
STEPS, BATCH = 300, 64  # of the transformers' training


class Pair(NamedTuple):
    """A data set and a backbone."""

    tuned: bool  # whether it was looked at while a search was designed
    data: dict[str, Any]
    backbone: dict[str, Any]  # for a transformer, its layers; the benchmark trains it
    blocks: list[int]
    timesteps: list[int] = TIMESTEPS
    steps: int = 300  # of the training of a U-Net

    @property
    def transformer(self) -> bool:
        """Whether the backbone is a transformer, which sweeps do not train."""
        return "layers" in self.backbone


def pairs(data: str | None) -> dict[str, Pair]:
    """Returns pairs by name; `data` is a folder with CIFAR-10 in the Hub's Parquet layout."""
    cifar: dict[str, Any] = {"max_train": 1000, "max_validation": 2500, "max_test": 500, "size": 16}
    cifar |= {"name": "parquet", "path": data} if data else {"name": "hub", "path": "uoft-cs/cifar10"}
    digits = {"name": "digits", "validation": 0.4, "test": 0.1}  # half a point is three images
    first: dict[str, Any] = {
        "blocks": [2, 3, 4, 5, 6, 8, 9],
        "timesteps": [10, 30, 50, 90, 150, 300, 500],
        "steps": 120,
    }
    return {
        "digits, U-Net 16-32": Pair(True, digits, unet(16, 32), **first),
        "CIFAR-10, U-Net 8-16": Pair(True, cifar, unet(8, 16), **first),
        # the cosine schedule has less noise at the same timestep
        "CIFAR-10 grey, U-Net 16-32": Pair(
            True, {**cifar, "channels": 1}, unet(16, 32, cosine=True), **first
        ),
        "animals, U-Net 16-32": Pair(
            False, {**cifar, "classes": ANIMALS}, unet(16, 32), [2, 3, 4, 5, 6, 8, 9]
        ),
        "vehicles, U-Net 8-16-16": Pair(
            False, {**cifar, "classes": VEHICLES}, unet(8, 16, 16, cosine=True), [2, 4, 6, 8, 9, 11, 13]
        ),
        "CIFAR-10, transformer": Pair(False, cifar, {"layers": 7, "heads": 4}, [1, 2, 3, 4, 5, 6, 7]),
        "animals, transformer": Pair(
            False,
            {**cifar, "classes": ANIMALS, "channels": 1},
            {"layers": 7, "heads": 2},
            [1, 2, 3, 4, 5, 6, 7],
        ),
        "digits, transformer": Pair(False, digits, {"layers": 6, "heads": 4}, [1, 2, 3, 4, 5, 6]),
        "digits, U-Net 8-16": Pair(False, digits, unet(8, 16, cosine=True), [2, 3, 4, 5, 6, 8, 9], steps=600),
        "vehicles, transformer": Pair(
            True, {**cifar, "classes": VEHICLES}, {"layers": 6, "heads": 3}, [1, 2, 3, 4, 5, 6]
        ),
        "digits, U-Net 8-8": Pair(
            True, digits, unet(8, 8), [1, 2, 4, 5, 6, 8, 9], [1, 3, 10, 30, 100, 300, 600, 900]
        ),
    }


def unet(*widths: int, cosine: bool = False) -> dict[str, Any]:
    """Returns a small U-Net, which the sweep trains."""
    schedule = {"schedule": "squaredcos_cap_v2"} if cosine else {}
    return {"name": "unet", "block_out_channels": list(widths), "layers_per_block": 1, **schedule}


def trained_transformer(pair: Pair, seed: int, folder: Path) -> Path:
    """Returns a folder with a pipeline of a `DiTTransformer2DModel`, trained here unless it is there already.

    It denoises what an untrained encoder without downsampling makes of the training images, unconditionally.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    place = folder / "pipeline"
    if (place / "model_index.json").is_file():
        return place
    dataset = load(DataConfig(**pair.data), seed)
    images = as_input(torch.from_numpy(dataset.images[dataset.splits["train"]]))
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=images.shape[2],
    ).requires_grad_(False)
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(256)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    latents = latents * vae.config.scaling_factor
    network = DiTTransformer2DModel(
        num_attention_heads=pair.backbone["heads"],
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=pair.backbone["layers"],
        sample_size=images.shape[2],
        patch_size=2,
        num_embeds_ada_norm=1,
    )
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    process = process_of(dict(scheduler.config))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001)
    draw = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = latents[draw.integers(len(latents), size=BATCH)]
        steps_N = torch.from_numpy(draw.integers(1000, size=BATCH))
        epsilon = torch.randn_like(x)
        null_N = torch.ones(BATCH, dtype=torch.long)
        predicted = network(process.noised(x, epsilon, steps_N), steps_N, null_N).sample
        loss = (predicted - epsilon).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.save_pretrained(place / "transformer")
    vae.save_pretrained(place / "vae")
    scheduler.save_pretrained(place / "scheduler")
    (place / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", "loss": float(loss)}))
    return place
