"""A trial of a streamed head: reads its correctness on validation and test images."""

import math
from typing import Any

from harness.core.stages import Context, Trial
from harness.data.dataset import open_dataset
from harness.features.streaming.streamed_head import about, read
from harness.features.tables import correctness
from harness.metrics.accuracy import accuracy


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features` and one of `correctness`."""
    (stage,) = trial.reads["streamed"]
    dataset = open_dataset(trial.needs["dataset"], context)
    kept = read(stage, context)
    if kept.error is not None:
        raise FloatingPointError(kept.error)
    noted = about(stage, context)
    row = {
        "caching": "streamed",
        "precision": noted["precision"],
        "dimensions": math.prod((stage.config["channels"], stage.config["pool"], stage.config["pool"])),
        "parameter_count": kept.parameters,
        "regularisation": kept.regularisation,
        "train_n": len(dataset.labelled(trial.config["labels_per_class"])) * trial.config["views"],
        "image_passes": stage.work.image_passes,
        **accuracy(kept.right_validation).columns("validation_accuracy"),
        **accuracy(kept.right_test).columns("test_accuracy"),
        "fit_seconds": noted["fit_seconds"],
    }
    return {"features": [row], "correctness": [correctness(trial, kept.right_test)]}
