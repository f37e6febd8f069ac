"""The original networks: one is trained, then checkpoints of its varied parameters are collected."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.config import parse
from harness.core.stages import Stage, Workshop
from harness.data.dataset import Dataset, open_dataset
from harness.models.convnet import ConvNet
from harness.training import checkpoint
from harness.training.config import TrainConfig
from harness.training.device import pick_device
from harness.training.launch import train
from harness.training.tasks import Classification
from harness.weights.evaluate import predict_all
from harness.weights.layout import Layout, layout_of
from harness.weights.vectors import flatten

NETWORK = "network.safetensors"
VECTORS = "vectors.safetensors"


def build(network: dict[str, Any]) -> ConvNet:
    """Returns an untrained original network."""
    return ConvNet(network["in_channels"], network["channels"], network["classes"], network["groups"])


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
    images, labels = _labelled(stage, workshop)
    return Classification(partial(build, stage.config["network"]), images, labels)


def make_pool(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Goes on training the varied parameters alone, and keeps them every few steps."""
    config = parse(TrainConfig, stage.options["train"], "pool")
    with workshop.store.scratch() as trained:
        train("harness.weights.originals:collection", stage, config, stage.config["seed"], trained, workshop)
        snapshots_KP = load_file(trained / "snapshots.safetensors")["snapshots"]
    save_file({"vectors": snapshots_KP}, folder / VECTORS)
    _layout(stage).save(folder / "layout.json")


def collection(stage: Stage, workshop: Workshop) -> Classification:
    """Returns the task of `make_pool`. Called by every worker."""
    images, labels = _labelled(stage, workshop)
    layout = _layout(stage)
    trained = load_file(workshop.file(stage.needs["network"], NETWORK))

    def start() -> nn.Module:
        network = build(stage.config["network"])
        network.load_state_dict(trained)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in layout.names)
        return network

    def keep(network: nn.Module, step: int) -> torch.Tensor | None:
        return flatten(network.state_dict(), layout) if step % stage.config["every"] == 0 else None

    return Classification(start, images, labels, keep)


def make_predictions(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes what the networks of one shard say of the validation and the test images."""
    begin, end = stage.config["networks"]
    vectors_KP = load_arrays(workshop.file(stage.needs["vectors"], VECTORS))["vectors"][begin:end]
    predicted_KN = predict(torch.from_numpy(vectors_KP), stage.needs, workshop)
    save_file({"predictions": torch.from_numpy(predicted_KN)}, folder / "predictions.safetensors")


def predict(vectors_NP: torch.Tensor, needs: Any, workshop: Workshop) -> np.ndarray:
    """Returns the predictions [N, images] of networks given by their varied parameters.

    `needs` names the stages "dataset", "network" and "pool"; images are those of validation, then of test.
    """
    dataset = open_dataset(needs["dataset"], workshop)
    network = build(needs["network"].config["network"])
    network.load_state_dict(load_file(workshop.file(needs["network"], NETWORK)))
    layout = open_pool(needs["pool"], workshop)[1]
    images = dataset.images[np.concatenate([dataset.splits["validation"], dataset.splits["test"]])]
    return predict_all(network, layout, vectors_NP, torch.from_numpy(images), pick_device(workshop))


def read_predictions(shards: Sequence[Stage], workshop: Workshop) -> np.ndarray:
    """Returns the predictions [N, images] that `make_predictions` wrote, all shards in their order."""
    parts = [load_arrays(workshop.file(shard, "predictions.safetensors"))["predictions"] for shard in shards]
    return np.concatenate(parts)


def open_pool(stage: Stage, workshop: Workshop) -> tuple[np.ndarray, Layout]:
    """Returns all collected vectors [K, P], oldest first, and their layout."""
    vectors_KP = load_arrays(workshop.file(stage, VECTORS))["vectors"]
    return vectors_KP, Layout.load(workshop.file(stage, "layout.json"))


def _layout(stage: Stage) -> Layout:
    network = build(stage.config["network"])
    return layout_of(
        {name: tuple(p.shape) for name, p in network.named_parameters()}, stage.config["parameters"]
    )


def _labelled(stage: Stage, workshop: Workshop) -> tuple[torch.Tensor, torch.Tensor]:
    dataset: Dataset = open_dataset(stage.needs["dataset"], workshop)
    index = dataset.labelled(stage.config["labels_per_class"])
    return torch.from_numpy(dataset.images[index]), torch.from_numpy(dataset.labels[index])
