"""A trial of fine-tuning: the accuracy of the tuned encoder and its head on validation and test images."""

import math
from typing import Any

import numpy as np

from harness.core.stages import Context, Trial
from harness.data.dataset import Dataset, open_dataset
from harness.features.extract import open_denoiser, read_blocks
from harness.features.finetune.task import read_about, read_head
from harness.features.heads.head import Fitted
from harness.features.tables import correctness
from harness.metrics.accuracy import accuracy


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features` and one of `correctness`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    tuned = trial.needs["tuned"]
    about = read_about(tuned, context)
    places = [dataset.splits["validation"], dataset.splits["test"]]
    predicted_M = predict(trial, context, dataset, np.concatenate(places))
    right_validation, right_test = (
        part == dataset.labels[where]
        for part, where in zip(np.split(predicted_M, [len(places[0])]), places, strict=True)
    )
    row = {
        "dimensions": math.prod(about["shape"]),
        "parameter_count": about["parameters"],
        "train_n": len(dataset.labelled(tuned.config["labels_per_class"])),
        "image_passes": tuned.work.image_passes + len(predicted_M) * trial.config["draws"],
        **accuracy(right_validation).columns("validation_accuracy"),
        **accuracy(right_test).columns("test_accuracy"),
    }
    return {"features": [row], "correctness": [correctness(trial, right_test)]}


def predict(trial: Trial, context: Context, dataset: Dataset, index_M: np.ndarray) -> np.ndarray:
    """Returns class numbers [M] of the images at `index_M`; holds the features of one batch at a time."""
    stage = trial.needs["tuned"]
    tap = stage.config["module"], stage.config["pool"]
    denoiser = open_denoiser(stage, context)
    fitted = Fitted(read_head(stage, context, len(dataset.classes)).to(denoiser.device), None)
    return np.concatenate(
        [
            fitted.predict(features[tap].cpu().numpy())
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
