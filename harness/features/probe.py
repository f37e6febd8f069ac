"""A probe trial: read the features of one setting, train a head, measure how good it is."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open

from harness.core.seeds import derive_seed
from harness.core.stages import Context, Trial
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import as_input
from harness.features.extract import FILE
from harness.features.heads.head import Fitted, Labelled, head_of
from harness.features.lazy import Features, LazyFeatures, in_memory, joined, part
from harness.features.measure import judged, tables
from harness.features.memory import read_in_batches
from harness.features.standardise import Moments, moments, standardised
from harness.features.stored import pooled, stored_features
from harness.training.device import pick_device


class Samples(NamedTuple):
    """What a probe learns from and is judged on, standardised by the training features."""

    train: Labelled  # all views
    validation: Labelled
    test: Labelled
    moments: Moments
    reading: str  # "in memory", or "in batches" from the stored features


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `features`, and one of `correctness` if images have one label each."""
    dataset = open_dataset(trial.needs["dataset"], context)
    samples = samples_of(trial, context, dataset)
    began = time.perf_counter()
    fitted = fit_head(trial, samples, len(dataset.classes), context)
    seconds = time.perf_counter() - began
    validation, test = (
        judged(fitted.scores(one.x), one.labels_N) for one in (samples.validation, samples.test)
    )
    row = {
        "caching": "cached",
        "reading": samples.reading,
        "precision": precision_of(trial, context),
        "constant_share": samples.moments.constant_share,
        "dimensions": samples.train.dimensions,
        "parameter_count": sum(one.numel() for one in fitted.module.parameters()),
        "regularisation": fitted.regularisation,
        "train_n": len(samples.train.labels_N),
        "image_passes": image_passes(trial),
        "fit_seconds": seconds,
    }
    return tables(trial, row, validation, test)


def fit_head(trial: Trial, samples: Samples, classes: int, context: Context) -> Fitted:
    """Trains the trial's head; on the same type of device the result is always the same."""
    setting = (trial.axes[name] for name in ("features", "block", "timestep", "pool"))
    seed = derive_seed(trial.seed, "head", *setting)
    head, device = head_of(trial.config["head"]), pick_device(context).type
    return head.fit(samples.train, samples.validation, classes, seed, device)


def samples_of(trial: Trial, context: Context, dataset: Dataset) -> Samples:
    """Returns what a trial's head is given: arrays, or features to read in batches if these would not fit.

    Raises `FloatingPointError` for features that are not finite.
    """
    x_MCPP, views_VCPP = read_features(trial, context, dataset)
    parts = split(x_MCPP, views_VCPP, dataset, trial.config["labels_per_class"])
    in_batches = read_in_batches(head_of(trial.config["head"]), **trial.options)
    found = moments(parts[0].x)
    scaled = [standardised(one.x, found) for one in parts]
    given = [
        Labelled(x if in_batches else in_memory(x), one.labels_N)
        for x, one in zip(scaled, parts, strict=True)
    ]
    return Samples(given[0], given[1], given[2], found, "in batches" if in_batches else "in memory")


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


def read_features(trial: Trial, context: Context, dataset: Dataset) -> tuple[LazyFeatures, LazyFeatures]:
    """Returns the features of the probed images [M, C, P, P] and of further views of the labelled ones [V, C, P, P].

    Both are pooled from what is stored; the views follow each other. Pixels are [M, C, H, W] and have no views.
    Raises `FloatingPointError` for features that are not finite.
    """
    if trial.axes["features"] == "pixels":
        index_M, images_NCHW = dataset.probed(trial.config["labels_per_class"]), dataset.images
        x_MCHW = LazyFeatures(
            (len(index_M), *images_NCHW.shape[1:]),
            lambda rows_B: as_input(torch.from_numpy(images_NCHW[index_M[rows_B]])).numpy(),
        )
        return x_MCHW, part(x_MCHW, 0, 0)
    taps: dict[str, list[LazyFeatures]] = {"features": [], "views": []}
    for name, shards in trial.reads.items():
        taps[name.split()[0]].append(stored_features(shards, context))
    x_MCPP = pooled(taps["features"], trial.axes["pool"])
    return x_MCPP, pooled(taps["views"], trial.axes["pool"]) if taps["views"] else part(x_MCPP, 0, 0)


def split(
    x_M: Features, views_V: Features, dataset: Dataset, per_class: int | None
) -> tuple[Labelled, Labelled, Labelled]:
    """Returns training (all views), validation and test features, as they are stored."""
    labelled = dataset.labelled(per_class)
    first, second = len(labelled), len(labelled) + len(dataset.splits["validation"])
    train = Labelled(
        joined(part(x_M, 0, first), views_V),
        np.concatenate([dataset.labels[labelled]] * (1 + len(views_V) // first)),
    )
    validation = Labelled(part(x_M, first, second), dataset.labels[dataset.splits["validation"]])
    return train, validation, Labelled(part(x_M, second, len(x_M)), dataset.labels[dataset.splits["test"]])
