"""A probe trial: read the features of one setting, train a head, count what it gets right."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from harness.core.seeds import stream
from harness.core.stages import Stage, Trial, Workshop
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import as_input
from harness.features.extract import FILE
from harness.features.heads.head import HEADS, Head, Labelled
from harness.metrics.accuracy import accuracy
from harness.training.device import pick_device


def run(trial: Trial, workshop: Workshop) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features` and one of `correctness`."""
    dataset = open_dataset(trial.needs["dataset"], workshop)
    per_class = trial.config["labels_per_class"]
    x_MCPP = read_features(trial, workshop, dataset).numpy()
    labels_M = dataset.labels[dataset.probed(per_class)]
    train, validation, test = split(x_MCPP, labels_M, dataset, per_class)
    head: Head = HEADS.load(trial.axes["head"]).model_validate(trial.config["head"])
    began = time.perf_counter()
    seed = stream(
        trial.seed, "head", *(trial.axes[name] for name in ("features", "block", "timestep", "pool"))
    )
    fitted = head.fit(train, validation, len(dataset.classes), seed, pick_device(workshop).type)
    seconds = time.perf_counter() - began
    right_validation = fitted.predict(validation.x) == validation.labels_N
    right_test = fitted.predict(test.x) == test.labels_N
    row = {
        "way": "cached",
        "dimensions": math.prod(x_MCPP.shape[1:]),
        "parameters": sum(one.numel() for one in fitted.network.parameters()),
        "regularisation": fitted.regularisation,
        "train_n": len(train.labels_N),
        **accuracy(right_validation).columns("validation_accuracy"),
        **accuracy(right_test).columns("test_accuracy"),
        "fit_seconds": seconds,
    }
    correct = {"study": trial.study, "kind": trial.axes["features"], "split": "test", "correct": right_test}
    return {"features": [row], "correctness": [correct]}


def read_features(trial: Trial, workshop: Workshop, dataset: Dataset) -> torch.Tensor:
    """Returns the setting's features [M, C, P, P], pooled from what is stored; pixels [M, C, H, W]."""
    if trial.axes["features"] == "pixels":
        index_M = dataset.probed(trial.config["labels_per_class"])
        return as_input(torch.from_numpy(dataset.images[index_M]))
    stored = _stored(trial.reads["features"], workshop)
    return torch.nn.functional.adaptive_avg_pool2d(stored, trial.axes["pool"])


def split(
    x_M: np.ndarray, labels_M: np.ndarray, dataset: Dataset, per_class: int | None
) -> tuple[Labelled, Labelled, Labelled]:
    """Returns training, validation and test features, each number standardised over the training images."""
    first = len(dataset.labelled(per_class))
    second = first + len(dataset.splits["validation"])
    mean, deviation = x_M[:first].mean(0), x_M[:first].std(0)
    x_M = (x_M - mean) / np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    edges = ((0, first), (first, second), (second, len(x_M)))
    train, validation, test = (Labelled(x_M[a:b], labels_M[a:b]) for a, b in edges)
    return train, validation, test


def _stored(shards: Sequence[Stage], workshop: Workshop) -> torch.Tensor:
    """Returns a tap's features, read a shard after the other; those of the last two taps are kept between trials."""
    key = (workshop.store.storage.url, *(shard.key for shard in shards))
    if key not in _kept:
        while len(_kept) >= TAPS_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = torch.cat([load_file(workshop.file(shard, FILE))["features"] for shard in shards])
    return _kept[key]


TAPS_KEPT = 2
_kept: dict[tuple[str, ...], torch.Tensor] = {}
