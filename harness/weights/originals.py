"""The original networks: one is trained, then checkpoints of its varied parameters are collected along trajectories.

A trajectory is one training from the base network on with all but the varied parameters frozen; a pool puts
trajectories together and keeps some checkpoints from everything that learns.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.config import parse
from harness.core.seeds import generator
from harness.core.stages import Stage, Workshop
from harness.data.dataset import Dataset, open_dataset
from harness.models.classifiers.build import build
from harness.training import checkpoint
from harness.training.config import Augment, TrainConfig
from harness.training.device import pick_device
from harness.training.launch import train
from harness.training.tasks import Classification
from harness.weights.evaluate import IMAGES_AT_ONCE, Evaluator
from harness.weights.layout import Layout
from harness.weights.vectors import choose, flatten, unflatten, withheld

NETWORK = "network.safetensors"
VECTORS = "vectors.safetensors"
LAYOUT = "layout.json"
ENOUGH_HELD_OUT = 2  # fewer say nothing of how far apart checkpoints are


class Pool(NamedTuple):
    """All collected checkpoints, by step and then trajectory."""

    vectors_NP: np.ndarray  # float32
    steps_N: np.ndarray  # of the training since the base network, int64
    trajectory_N: np.ndarray
    held_out_N: np.ndarray  # booleans: kept from everything that learns
    layout: Layout


def make_network(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Trains all parameters on the labelled training images."""
    config = parse(TrainConfig, stage.options["train"], "train")
    with workshop.store.scratch() as trained:
        train(
            "harness.weights.originals:classification", stage, config, stage.config["seed"], trained, workshop
        )
        save_file(checkpoint.trained_weights(trained), folder / NETWORK)
        (folder / "history.json").write_text(json.dumps(checkpoint.read_state(trained)["history"]))


def classification(stage: Stage, workshop: Workshop) -> Classification:
    """Returns what the network learns. Called by every worker."""

    def start() -> nn.Module:
        network = build(stage.config["network"])
        if "start" in stage.needs:
            network.load_state_dict(load_file(workshop.file(stage.needs["start"], NETWORK)))
        return network

    return Classification(start, *_labelled(stage, workshop), augment=_augment(stage))


def make_trajectory(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Goes on training the varied parameters alone, and keeps them every few steps."""
    config = parse(TrainConfig, stage.options["train"], "pool")
    with workshop.store.scratch() as trained:
        train("harness.weights.originals:collection", stage, config, stage.config["draws"], trained, workshop)
        vectors_NP = load_file(trained / "snapshots.safetensors")["snapshots"].numpy()
    steps_N = stage.config["every"] * np.arange(1, len(vectors_NP) + 1)
    save_arrays({"vectors": vectors_NP, "steps": steps_N}, folder / VECTORS)
    _layout(stage).save(folder / LAYOUT)


def collection(stage: Stage, workshop: Workshop) -> Classification:
    """Returns the task of `make_trajectory`. Called by every worker.

    Where running statistics stay the base network's, training normalises with them too: a checkpoint is the network
    that was trained.
    """
    layout = _layout(stage)
    weights = load_file(workshop.file(stage.needs["network"], NETWORK))
    if "pool" in stage.needs:
        weights |= _last_original(stage, workshop)

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

    return Classification(start, *_labelled(stage, workshop), keep, augment=_augment(stage))


def _last_original(stage: Stage, workshop: Workshop) -> dict[str, torch.Tensor]:
    """Returns the varied parameters of the last of the k originals from which fine-tuning goes on."""
    pool = open_pool(stage.needs["pool"], workshop)
    last_1P = torch.from_numpy(pool.vectors_NP[chosen(pool, stage.config["after"])[-1:]])
    return {name: value[0] for name, value in unflatten(last_1P, pool.layout).items()}


def make_pool(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Puts trajectories together, by step and then trajectory, and marks the checkpoints that are held out."""
    trajectories = [stage.needs[name] for name in sorted(stage.needs, key=lambda name: int(name.split()[1]))]
    opened = [open_trajectory(one, workshop) for one in trajectories]
    steps_N = np.concatenate([steps for _, steps in opened])
    trajectory_N = np.repeat(np.arange(len(opened)), [len(steps) for _, steps in opened])
    order = np.lexsort((trajectory_N, steps_N))[: stage.config["checkpoints"]]
    arrays = {
        "vectors": np.concatenate([vectors for vectors, _ in opened])[order],
        "steps": steps_N[order],
        "trajectory": trajectory_N[order],
        "held_out": withheld(len(order), stage.config["held_out"]).astype(np.uint8),
    }
    save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / VECTORS)
    (folder / LAYOUT).write_bytes(workshop.file(trajectories[0], LAYOUT).read_bytes())


def open_trajectory(stage: Stage, workshop: Workshop) -> tuple[np.ndarray, np.ndarray]:
    """Returns a trajectory's vectors [N, P] and their steps [N], oldest first."""
    arrays = load_arrays(workshop.file(stage, VECTORS))
    return arrays["vectors"], arrays["steps"]


def open_pool(stage: Stage, workshop: Workshop) -> Pool:
    """Reads all collected checkpoints and their layout."""
    arrays = load_arrays(workshop.file(stage, VECTORS))
    return Pool(
        arrays["vectors"],
        arrays["steps"],
        arrays["trajectory"],
        arrays["held_out"].astype(bool),
        Layout.load(workshop.file(stage, LAYOUT)),
    )


def chosen(pool: Pool, config: Mapping[str, Any]) -> np.ndarray:
    """Returns the places in the pool of the `k` originals of the way `subset`, in their order; `seed` draws them."""
    free = np.flatnonzero(~pool.held_out_N)
    draw = generator(config["seed"], "subset")
    return free[choose(len(free), config["k"], config["subset"], draw)]


def held_out(pool: Pool, places_K: np.ndarray) -> np.ndarray:
    """Returns the places of the checkpoints to compare with: those held out between the first and last original.

    Outside of the originals' steps training has moved on; checkpoints from there would make anything look copied.
    """
    places = np.flatnonzero(pool.held_out_N)
    steps = pool.steps_N[places_K]
    return places[(pool.steps_N[places] >= steps.min()) & (pool.steps_N[places] <= steps.max())]


def make_predictions(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes what the networks of one shard say of the validation and the test images."""
    begin, end = stage.part["networks"]
    vectors_NP = load_arrays(workshop.file(stage.needs["vectors"], VECTORS))["vectors"][begin:end]
    predicted_NM = predict(vectors_NP, stage.needs, workshop, memory_gb=stage.options["memory_gb"])
    save_arrays({"predictions": predicted_NM}, folder / "predictions.safetensors")


def predict(
    vectors_NP: np.ndarray,
    needs: Mapping[str, Stage],
    workshop: Workshop,
    splits: Sequence[str] = ("validation", "test"),
    memory_gb: float = 1.0,
) -> np.ndarray:
    """Returns the predictions [N, images] of networks given by their varied parameters, for the images of `splits`.

    `needs` names the stages "dataset", "network" and "pool".
    """
    dataset = open_dataset(needs["dataset"], workshop)
    images = dataset.images[np.concatenate([dataset.splits[name] for name in splits])]
    evaluator = _evaluator(needs, workshop, dataset.images, memory_gb)
    say = partial(workshop.progress, "predictions")
    return evaluator(torch.from_numpy(vectors_NP), torch.from_numpy(images), say)


def _evaluator(
    needs: Mapping[str, Stage], workshop: Workshop, images: np.ndarray, memory_gb: float
) -> Evaluator:
    """Makes what runs the networks; the last one is kept, for the next shard or trial of a process."""
    key = needs["network"].key, needs["pool"].key, memory_gb
    if key not in _made:
        _made.clear()
        network = build(needs["network"].config["network"])
        network.load_state_dict(load_file(workshop.file(needs["network"], NETWORK)))
        layout = Layout.load(workshop.file(needs["pool"], LAYOUT))
        _made[key] = Evaluator(
            network,
            layout,
            torch.tensor(images[0]),
            pick_device(workshop),
            images=min(IMAGES_AT_ONCE, len(images)),
            memory_gb=memory_gb,
        )
    return _made[key]


_made: dict[tuple[str, str, float], Evaluator] = {}


def read_predictions(parts: Sequence[Stage], workshop: Workshop) -> np.ndarray:
    """Returns the predictions [N, images] that `make_predictions` wrote, all shards in their order."""
    found = [load_arrays(workshop.file(part, "predictions.safetensors"))["predictions"] for part in parts]
    return np.concatenate(found)


def _layout(stage: Stage) -> Layout:
    values = stage.config["layout"]
    return Layout(tuple(values["names"]), tuple(tuple(shape) for shape in values["shapes"]))


def _augment(stage: Stage) -> Augment | None:
    values = stage.config["augment"]
    return None if values is None else Augment(**values)


def _labelled(stage: Stage, workshop: Workshop) -> tuple[torch.Tensor, torch.Tensor]:
    dataset: Dataset = open_dataset(stage.needs["dataset"], workshop)
    index = dataset.labelled(stage.config["labels_per_class"])
    return torch.from_numpy(dataset.images[index]), torch.from_numpy(dataset.labels[index])
