"""Predictions for the validation and test images of networks that are given by their varied parameters."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file

from harness.core.stages import Context, Stage
from harness.data.dataset import open_dataset
from harness.data.shards import ImageArray
from harness.data.transforms import Chosen
from harness.models.classifiers.build import build
from harness.training.device import pick_device
from harness.weights.checkpoints import LAYOUT, NETWORK, VECTORS
from harness.weights.evaluate import IMAGES_AT_ONCE, Evaluator
from harness.weights.layout import Layout


def make_predictions(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the predictions of one shard of networks for the validation and test images."""
    begin, end = stage.part["networks"]
    vectors_NP = load_arrays(context.file(stage.needs["vectors"], VECTORS))["vectors"][begin:end]
    predicted_NM = predict(vectors_NP, stage.needs, context, memory_gb=stage.options["memory_gb"])
    save_arrays({"predictions": predicted_NM}, folder / "predictions.safetensors")


def predict(
    vectors_NP: np.ndarray,
    needs: Mapping[str, Stage],
    context: Context,
    splits: Sequence[str] = ("validation", "test"),
    memory_gb: float = 1.0,
) -> np.ndarray:
    """Returns the predictions [N, images] of networks given by their varied parameters, for the images of `splits`.

    `needs` names the stages "dataset", "network" and "checkpoints".
    """
    dataset = open_dataset(needs["dataset"], context)
    images = Chosen(dataset.images, np.concatenate([dataset.splits[name] for name in splits]))
    evaluator = _evaluator(needs, context, dataset.images, memory_gb)
    say = partial(context.progress, "predictions", "")
    return evaluator(torch.from_numpy(vectors_NP), images, say)


def _evaluator(
    needs: Mapping[str, Stage], context: Context, images: ImageArray, memory_gb: float
) -> Evaluator:
    """Returns the evaluator of these networks; the last one is cached for the next shard or trial of the process."""
    key = needs["network"].key, needs["checkpoints"].key, memory_gb
    if key not in _made:
        _made.clear()
        network = build(needs["network"].config["network"])
        network.load_state_dict(load_file(context.file(needs["network"], NETWORK)))
        layout = Layout.load(context.file(needs["checkpoints"], LAYOUT))
        _made[key] = Evaluator(
            network,
            layout,
            torch.tensor(images[0]),
            pick_device(context),
            images=min(IMAGES_AT_ONCE, len(images)),
            memory_gb=memory_gb,
        )
    return _made[key]


_made: dict[tuple[str, str, float], Evaluator] = {}


def read_predictions(parts: Sequence[Stage], context: Context) -> np.ndarray:
    """Returns the predictions [N, images] that `make_predictions` wrote, all shards in order."""
    found = [load_arrays(context.file(part, "predictions.safetensors"))["predictions"] for part in parts]
    return np.concatenate(found)
