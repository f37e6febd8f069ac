"""Exports the classifier of a trial to a folder that `harness.load` reads, and checks that its predictions agree."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from harness.core.errors import UserError
from harness.core.stages import Context, Stage, Trial, with_parts
from harness.data.dataset import Dataset, open_dataset
from harness.features import extractor
from harness.features.backbone import copy_opened
from harness.features.card import card
from harness.features.finetune import task as finetune
from harness.features.heads.head import head_of
from harness.features.measure import Judged, judged
from harness.features.probe import fit_head, samples_of
from harness.features.streaming import streamed_head
from harness.features.tables import ACCURACY, MEAN_AVERAGE_PRECISION

SAME_MAP = 1e-3  # difference in test mAP up to which rounding may have reordered scores
CHECKED = 1000  # test images on which the exported classifier is checked, with their noise in the sweep


def write_probe(
    trial: Trial,
    row: Mapping[str, Any],
    correct_N: np.ndarray | None,
    origin: Mapping[str, Any],
    folder: Path,
    context: Context,
) -> list[str]:
    """Writes a frozen backbone with the head of a probe, which is fitted again in the same way.

    `row` and `correct_N` (which test images were classified correctly, None for multi-label data) are what the trial
    recorded; `origin` says
    what the classifier was chosen from. Returns lines to print. Raises `UserError` if the backbone no longer exists.
    """
    dataset = open_dataset(trial.needs["dataset"], context)
    _copy_pipeline(trial.needs["backbone"], folder, context)
    samples = samples_of(trial, context, dataset)
    fitted = fit_head(trial, samples, len(dataset.classes), context)
    extractor.save_head(folder, fitted.module, (samples.moments.mean, samples.moments.scale))
    _write_about(trial, samples.train.x.shape[1:], dataset, folder, draws=trial.config["draws"])
    found = judged(fitted.scores(samples.test.x), samples.test.labels_N)
    notes = _compared(found, row, correct_N, "the refitted head")
    return _finish(trial, row, correct_N, origin, dataset, folder, notes)


def write_streamed(
    trial: Trial,
    row: Mapping[str, Any],
    correct_N: np.ndarray | None,
    origin: Mapping[str, Any],
    folder: Path,
    context: Context,
) -> list[str]:
    """Writes a frozen backbone with a streamed head, as stored by the sweep; otherwise as `write_probe`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    _copy_pipeline(trial.needs["backbone"], folder, context)
    (stage,) = trial.reads["streamed"]
    weights = {
        name: torch.from_numpy(value) for name, value in streamed_head.read(stage, context).weights.items()
    }
    by_steps = trial.config["head"]["name"] != "ridge"
    shape = stage.config["channels"], stage.config["pool"], stage.config["pool"]
    standard = None
    if "mean" in weights:
        standard = weights.pop("mean").numpy().reshape(shape), weights.pop("scale").numpy().reshape(shape)
        if by_steps:
            weights = {name.removeprefix("head."): value for name, value in weights.items()}
    module = head_of(trial.config["head"]).module(shape, len(dataset.classes))
    module.load_state_dict(weights)
    extractor.save_head(folder, module, standard)
    draws, noise = (1, streamed_head.EVALUATION) if by_steps else (trial.config["draws"], None)
    _write_about(trial, shape, dataset, folder, draws=draws, noise=noise)
    return _finish(trial, row, correct_N, origin, dataset, folder, [])


def write_tuned(
    trial: Trial,
    row: Mapping[str, Any],
    correct_N: np.ndarray | None,
    origin: Mapping[str, Any],
    folder: Path,
    context: Context,
) -> list[str]:
    """Writes a fine-tuned encoder with its head, as stored by the sweep; otherwise as `write_probe`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    tuned = trial.needs["tuned"]
    _copy_pipeline(tuned, folder, context)
    for name in (finetune.ABOUT, finetune.HEAD):
        (folder / extractor.BACKBONE / name).unlink()
    shape = finetune.read_about(tuned, context)["shape"]
    extractor.save_head(folder, finetune.read_head(tuned, context, len(dataset.classes)), None)
    _write_about(trial, shape, dataset, folder, draws=trial.config["draws"])
    return _finish(trial, row, correct_N, origin, dataset, folder, [])


def _copy_pipeline(stage: Stage, folder: Path, context: Context) -> None:
    """Copies the backbone. Raises `UserError` if it is missing: exporting does not train it again."""
    if not all(context.has(one) for one in with_parts([stage])):
        raise UserError(
            f"the {stage.kind} {stage.key[:6]} of the best setting is missing from the results; run the sweep again "
            "or name the results that hold it with --results"
        )
    copy_opened(stage, folder / extractor.BACKBONE, context)


def _write_about(
    trial: Trial,
    shape: Sequence[int],
    dataset: Dataset,
    folder: Path,
    *,
    draws: int,
    noise: str | None = None,
) -> None:
    channels, size = dataset.images.shape[1:3]
    about = extractor.About(
        harness_version=harness.__version__,
        features=trial.axes["features"],
        block=trial.axes["block"],
        module=trial.axes["block_name"],
        timestep=trial.axes["timestep"],
        pool=trial.axes["pool"],
        draws=draws,
        seed=trial.seed,
        noise=noise,
        noised=trial.axes.get("noise") != "clean",
        precision=trial.config["precision"],
        head=trial.config["head"],
        shape=list(shape),
        classes=list(dataset.classes),
        size=size,
        channels=channels,
        multilabel=dataset.multilabel,
    )
    text = json.dumps(about.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / extractor.ABOUT).write_text(f"{text}\n", encoding="utf-8")


def _finish(
    trial: Trial,
    row: Mapping[str, Any],
    correct_N: np.ndarray | None,
    origin: Mapping[str, Any],
    dataset: Dataset,
    folder: Path,
    notes: list[str],
) -> list[str]:
    """Checks the exported classifier on test images, writes the model card, and returns the lines to print."""
    loaded = extractor.load(folder, "cpu" if not torch.cuda.is_available() else None)
    places = dataset.splits["test"]
    if not dataset.multilabel:  # a ranking is known of all images only
        places = places[:CHECKED]
    found = judged(loaded(dataset.images[places], index=places).numpy(), dataset.labels[places])
    recorded = None if correct_N is None else correct_N[: len(places)]
    notes = [*notes, *_compared(found, row, recorded, "the exported classifier")]
    text = card(trial, row, origin, dataset, loaded.about, notes)
    (folder / extractor.CARD).write_text(text, encoding="utf-8")
    setting = f"block {loaded.about.block}, timestep {loaded.about.timestep}, pool {loaded.about.pool}"
    return [
        f"{loaded.about.features}, {setting}, head {trial.axes['head']}: {_reached(row, dataset.multilabel)}, "
        f"best on validation of {origin['settings']}",
        *notes,
    ]


def _reached(row: Mapping[str, Any], multilabel: bool) -> str:
    name = f"test_{MEAN_AVERAGE_PRECISION if multilabel else ACCURACY}"
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} % {'mAP ' if multilabel else ''}on test ({low:.1f} to {high:.1f}, n = {row[f'{name}_n']})"


def _compared(found: Judged, row: Mapping[str, Any], recorded_N: np.ndarray | None, what: str) -> list[str]:
    """Returns a warning if predictions differ from the sweep's or cannot be compared, else nothing."""
    if found.right_N is None:
        swept = row[f"test_{found.measure}"]
        if abs(found.estimate.value - swept) < SAME_MAP:
            return []
        return [
            f"warning: {what} has a test mAP of {100 * found.estimate.value:.2f} %, {100 * swept:.2f} % in the "
            "sweep, which ran on another type of device or with other library versions"
        ]
    right_N = found.right_N
    if recorded_N is None or len(recorded_N) != len(right_N):
        return [f"warning: {what} could not be compared with the sweep, which did not record its predictions"]
    differing = int(np.sum(right_N != recorded_N))
    if not differing:
        return []
    return [
        f"warning: {what} differs from the sweep on {differing} of {len(right_N)} test images; "
        "the sweep ran on another type of device or with other library versions"
    ]
