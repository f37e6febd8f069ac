"""Collecting the originals: a network is trained, then checkpoints of its varied parameters along trajectories.

A trajectory is one training run that starts from the base network with all but the varied parameters frozen. The
checkpoints stage merges trajectories and withholds some checkpoints from everything that learns.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.config import parse
from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import Chosen
from harness.models.classifiers.build import build
from harness.training import checkpoint
from harness.training.config import Augment, TrainConfig
from harness.training.launch import train
from harness.training.tasks import Classification
from harness.weights.checkpoints import LAYOUT, NETWORK, VECTORS, chosen, open_checkpoints, open_trajectory
from harness.weights.layout import Layout
from harness.weights.vectors import flatten, unflatten, withheld


def make_network(stage: Stage, folder: Path, context: Context) -> None:
    """Trains all parameters on the labelled training images."""
    config = parse(TrainConfig, stage.options["train"], "train")
    with context.store.scratch() as trained:
        train("harness.weights.collect:classification", stage, config, stage.config["seed"], trained, context)
        save_file(checkpoint.trained_weights(trained), folder / NETWORK)
        (folder / "history.json").write_text(json.dumps(checkpoint.read_state(trained)["history"]))


def classification(stage: Stage, context: Context) -> Classification:
    """Returns what the network learns. Called by every worker."""

    def start() -> nn.Module:
        network = build(stage.config["network"])
        if "start" in stage.needs:
            network.load_state_dict(load_file(context.file(stage.needs["start"], NETWORK)))
        return network

    return Classification(start, *_labelled(stage, context), augment=_augment(stage))


def make_trajectory(stage: Stage, folder: Path, context: Context) -> None:
    """Continues training with only the varied parameters free, and saves them every few steps."""
    config = parse(TrainConfig, stage.options["train"], "checkpoints")
    with context.store.scratch() as trained:
        train("harness.weights.collect:collection", stage, config, stage.config["seed"], trained, context)
        vectors_NP = load_file(trained / "snapshots.safetensors")["snapshots"].numpy()
    steps_N = stage.config["every"] * np.arange(1, len(vectors_NP) + 1)
    save_arrays({"vectors": vectors_NP, "steps": steps_N}, folder / VECTORS)
    _layout(stage).save(folder / LAYOUT)


def collection(stage: Stage, context: Context) -> Classification:
    """Returns the task of `make_trajectory`. Called by every worker.

    Where running statistics stay those of the base network, training normalises with them too, so that a checkpoint
    is exactly the network that was trained.
    """
    layout = _layout(stage)
    weights = load_file(context.file(stage.needs["network"], NETWORK))
    if "checkpoints" in stage.needs:
        weights |= _last_original(stage, context)

    def start() -> nn.Module:
        network = build(stage.config["network"])
        network.load_state_dict(weights)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in layout.names)
        if stage.config["buffers"] == "base":
            for module in network.modules():
                if next(module.buffers(recurse=False), None) is not None:
                    module.eval()
        return network

    def keep(network: nn.Module, step: int) -> torch.Tensor | None:
        return flatten(network.state_dict(), layout) if step % stage.config["every"] == 0 else None

    return Classification(start, *_labelled(stage, context), keep, augment=_augment(stage))


def _last_original(stage: Stage, context: Context) -> dict[str, torch.Tensor]:
    """Returns the varied parameters of the last of the k originals from which fine-tuning resumes."""
    checkpoints = open_checkpoints(stage.needs["checkpoints"], context)
    last_1P = torch.from_numpy(checkpoints.vectors_NP[chosen(checkpoints, stage.config["after"])[-1:]])
    return {name: value[0] for name, value in unflatten(last_1P, checkpoints.layout).items()}


def make_checkpoints(stage: Stage, folder: Path, context: Context) -> None:
    """Merges trajectories, ordered by step and then trajectory, and marks the held-out checkpoints."""
    trajectories = [stage.needs[name] for name in sorted(stage.needs, key=lambda name: int(name.split()[1]))]
    opened = [open_trajectory(one, context) for one in trajectories]
    steps_N = np.concatenate([steps for _, steps in opened])
    trajectory_N = np.repeat(np.arange(len(opened)), [len(steps) for _, steps in opened])
    order = np.lexsort((trajectory_N, steps_N))[: stage.config["count"]]
    arrays = {
        "vectors": np.concatenate([vectors for vectors, _ in opened])[order],
        "steps": steps_N[order],
        "trajectory": trajectory_N[order],
        "held_out": withheld(len(order), stage.config["held_out"]).astype(np.uint8),
    }
    save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / VECTORS)
    (folder / LAYOUT).write_bytes(context.file(trajectories[0], LAYOUT).read_bytes())


def _layout(stage: Stage) -> Layout:
    values = stage.config["layout"]
    return Layout(tuple(values["names"]), tuple(tuple(shape) for shape in values["shapes"]))


def _augment(stage: Stage) -> Augment | None:
    values = stage.config["augment"]
    return None if values is None else Augment(**values)


def _labelled(stage: Stage, context: Context) -> tuple[Chosen, torch.Tensor]:
    dataset: Dataset = open_dataset(stage.needs["dataset"], context)
    config = parse(TrainConfig, stage.options["train"], "train")
    index = config.storage_order(dataset.labelled(stage.config["labels_per_class"]))
    return Chosen(dataset.images, index), torch.from_numpy(dataset.labels[index])
