"""Measures the high-frequency ratio of a timestep's feature maps before pooling: one pass, no labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.stages import Context, Stage, Trial
from harness.data.dataset import open_dataset
from harness.features.extract import WHOLE, images_of, open_denoiser, read_blocks, used_precision
from harness.features.probe import image_passes
from harness.metrics.frequencies import high_frequency_ratio

FILE = "frequencies.json"


def make_frequencies(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the mean high-frequency ratio of each module's maps over the stage's images."""
    denoiser = open_denoiser(stage.needs["backbone"], context)
    ratios: dict[str, list[np.ndarray]] = {module: [] for module in stage.config["modules"]}
    for _, maps in read_blocks(
        denoiser,
        open_dataset(stage.needs["dataset"], context).images,
        images_of(stage, context),
        timestep=stage.config["timestep"],
        taps=[(module, WHOLE) for module in ratios],
        noised=stage.config["noise"] == "fresh",
        draws=stage.config["draws"],
        precision=stage.config["precision"],
        seed=stage.config["seed"],
        batch=stage.options["batch"],
    ):
        for (module, _), map_BCHW in maps.items():
            ratios[module].append(high_frequency_ratio(map_BCHW.cpu().numpy()))
    found = {module: float(np.concatenate(ones).mean()) for module, ones in ratios.items()}
    used = used_precision(stage.config["precision"], denoiser)
    (folder / FILE).write_text(json.dumps({"precision": used, "ratios": found}))


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, with the ratio and no accuracy."""
    (stage,) = trial.reads["frequencies"]
    found = json.loads(context.file(stage, FILE).read_text())
    row = {
        "caching": "cached",
        "precision": found["precision"],
        "image_passes": image_passes(trial),
        "high_frequency_ratio": float(np.mean(list(found["ratios"].values()))),
    }
    return {"features": [row]}
