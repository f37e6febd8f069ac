"""A probe trial: read the features of one setting, train a head, measure its accuracy."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from harness.core.recent import Recent
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage, Trial
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import as_input
from harness.features.extract import FILE
from harness.features.heads.head import Fitted, Labelled, head_of
from harness.features.standardise import scale_of
from harness.features.tables import correctness
from harness.metrics.accuracy import accuracy
from harness.models.finite import refuse_infinite
from harness.training.device import pick_device


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features` and one of `correctness`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    per_class = trial.config["labels_per_class"]
    x_MCPP, views_VCPP = read_features(trial, context, dataset)
    train, validation, test = split(x_MCPP, views_VCPP, dataset, per_class)
    began = time.perf_counter()
    fitted = fit_head(trial, train, validation, len(dataset.classes), context)
    seconds = time.perf_counter() - began
    right_validation = fitted.predict(validation.x) == validation.labels_N
    right_test = fitted.predict(test.x) == test.labels_N
    row = {
        "caching": "cached",
        "precision": precision_of(trial, context),
        "constant_share": constant_share(train.x),
        "dimensions": math.prod(x_MCPP.shape[1:]),
        "parameter_count": sum(one.numel() for one in fitted.module.parameters()),
        "regularisation": fitted.regularisation,
        "train_n": len(train.labels_N),
        "image_passes": image_passes(trial),
        **accuracy(right_validation).columns("validation_accuracy"),
        **accuracy(right_test).columns("test_accuracy"),
        "fit_seconds": seconds,
    }
    return {"features": [row], "correctness": [correctness(trial, right_test)]}


def fit_head(trial: Trial, train: Labelled, validation: Labelled, classes: int, context: Context) -> Fitted:
    """Trains the trial's head; on the same type of device the result is always the same."""
    setting = (trial.axes[name] for name in ("features", "block", "timestep", "pool"))
    seed = derive_seed(trial.seed, "head", *setting)
    return head_of(trial.config["head"]).fit(train, validation, classes, seed, pick_device(context).type)


def constant_share(x_N: np.ndarray) -> float:
    """Returns the share of features that are the same for all samples."""
    return float((x_N == x_N[:1]).all(0).mean())


def precision_of(trial: Trial, context: Context) -> str | None:
    """Returns the precision of the passes behind the features that a trial reads, both names if they are mixed.

    None for pixels.
    """
    used = set()
    for stage in (one for shards in trial.reads.values() for one in shards):
        with safe_open(context.file(stage, FILE), framework="numpy") as file:
            used.add((file.metadata() or {}).get("precision", "unknown"))
    return " and ".join(sorted(used)) or None


def image_passes(trial: Trial) -> int:
    """Returns the number of image passes behind the features that a trial reads; trials may share passes."""
    passes = {stage.job: stage.work.image_passes for shards in trial.reads.values() for stage in shards}
    return sum(passes.values())


def read_features(trial: Trial, context: Context, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of the probed images [M, C, P, P] and of further views of the labelled ones [V, C, P, P].

    Both are pooled from what is stored; the views are concatenated. Pixels are [M, C, H, W] and have no views.
    Raises `FloatingPointError` for features that are not finite.
    """
    if trial.axes["features"] == "pixels":
        index_M = dataset.probed(trial.config["labels_per_class"])
        x_MCHW = as_input(torch.from_numpy(dataset.images[index_M])).numpy()
        return x_MCHW, x_MCHW[:0]

    def pooled(what: str) -> list[np.ndarray]:
        return [
            torch.nn.functional.adaptive_avg_pool2d(_stored(shards, context), trial.axes["pool"]).numpy()
            for name, shards in trial.reads.items()
            if name.split()[0] == what
        ]

    x_MCPP, views = _side_by_side(pooled("features")), pooled("views")
    return x_MCPP, _side_by_side(views) if views else x_MCPP[:0]


def _side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    """Returns feature maps concatenated along the channels."""
    return np.concatenate(parts, 1) if len(parts) > 1 else parts[0]


def split(
    x_M: np.ndarray, views_V: np.ndarray, dataset: Dataset, per_class: int | None
) -> tuple[Labelled, Labelled, Labelled]:
    """Returns training (all views), validation and test features, standardised by the training features."""
    labelled = dataset.labelled(per_class)
    first, second = len(labelled), len(labelled) + len(dataset.splits["validation"])
    train_x = np.concatenate([x_M[:first], views_V]) if len(views_V) else x_M[:first]
    mean, scale = standardisation(train_x)
    train, validation, test = (
        Labelled((part - mean) / scale, labels)
        for part, labels in (
            (train_x, np.tile(dataset.labels[labelled], 1 + len(views_V) // first)),
            (x_M[first:second], dataset.labels[dataset.splits["validation"]]),
            (x_M[second:], dataset.labels[dataset.splits["test"]]),
        )
    )
    return train, validation, test


def standardisation(train_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and scale of each feature, float32 [C, P, P] each."""
    deviation = train_x.std(0)
    return train_x.mean(0), scale_of(deviation).astype(np.float32)


def _stored(shards: Sequence[Stage], context: Context) -> torch.Tensor:
    """Returns a tap's features, read shard by shard; the last few taps stay in memory between trials.

    They are checked as they are read, once for all pools and heads.
    """

    def read() -> torch.Tensor:
        x_MCPP = torch.cat([load_file(context.file(shard, FILE))["features"] for shard in shards])
        refuse_infinite(x_MCPP, "images' features")
        return x_MCPP

    return _kept.get((context.store.storage.url, *(shard.key for shard in shards)), read)


TAPS_KEPT = 4
_kept = Recent[torch.Tensor](TAPS_KEPT)
