"""A trial of fine-tuning: how good the tuned encoder and its head are on validation and test images."""

import math
from typing import Any

import numpy as np

from harness.core.stages import Context, Trial
from harness.data.dataset import Dataset, open_dataset
from harness.features.extract import open_denoiser, read_blocks
from harness.features.finetune.task import read_about, read_head
from harness.features.heads.head import Fitted
from harness.features.measure import judged, tables


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, and one of `correctness` if images have one label each."""
    dataset = open_dataset(trial.needs["dataset"], context)
    tuned = trial.needs["tuned"]
    about = read_about(tuned, context)
    places = [dataset.splits["validation"], dataset.splits["test"]]
    scores_MK = scores(trial, context, dataset, np.concatenate(places))
    validation, test = (
        judged(part, dataset.labels[where])
        for part, where in zip(np.split(scores_MK, [len(places[0])]), places, strict=True)
    )
    row = {
        "dimensions": math.prod(about["shape"]),
        "parameter_count": about["parameters"],
        "train_n": len(dataset.labelled(tuned.config["labels_per_class"])),
        "image_passes": tuned.work.image_passes + len(scores_MK) * trial.config["draws"],
    }
    return tables(trial, row, validation, test)


def scores(trial: Trial, context: Context, dataset: Dataset, index_M: np.ndarray) -> np.ndarray:
    """Returns scores [M, classes] of the images at `index_M`; holds the features of one batch at a time."""
    stage = trial.needs["tuned"]
    tap = stage.config["module"], stage.config["pool"]
    denoiser = open_denoiser(stage, context)
    fitted = Fitted(read_head(stage, context, len(dataset.classes)).to(denoiser.device), None)
    return np.concatenate(
        [
            fitted.scores(features[tap].cpu().numpy())
            for _, features in read_blocks(
                denoiser,
                dataset.images,
                index_M,
                timestep=stage.config["timestep"],
                taps=[tap],
                draws=trial.config["draws"],
                seed=trial.seed,
                batch=stage.options["batch"],
                precision=trial.config["precision"],
            )
        ]
    )
