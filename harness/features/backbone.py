"""Makes the diffusion backbone: trained by the sweep, copied from a folder, or untrained as a control."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from harness.core.artifacts import MANIFEST
from harness.core.config import parse, part_of
from harness.core.registry import load_attribute
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import Chosen
from harness.models.backbones.checkpoint import copy_pipeline
from harness.models.backbones.condition import FILE as CONDITION
from harness.models.backbones.denoiser import load_denoiser, save_frame, save_pipeline
from harness.models.backbones.family import blocks, build_network, family_of
from harness.models.backbones.pipeline import Pipeline
from harness.models.finite import refuse_infinite_weights
from harness.models.noise_processes.process import NoiseProcess, process_of
from harness.training import checkpoint
from harness.training.config import TrainConfig
from harness.training.launch import train
from harness.training.regularisers import BESIDE, PLAIN, REGULARISERS, UNLABELLED, Regulariser
from harness.training.tasks import Denoising


def train_backbone(stage: Stage, folder: Path, context: Context) -> None:
    """Trains the network on the training images; writes a diffusers pipeline and the loss history.

    Labels are used only if the regulariser does.
    """
    config = parse(TrainConfig, stage.options["train"], "train")
    with context.store.scratch() as trained:
        train("harness.features.backbone:denoising", stage, config, stage.config["seed"], trained, context)
        network = _build(stage)
        network.load_state_dict(checkpoint.trained_weights(trained))
        if hasattr(network, BESIDE):
            delattr(network, BESIDE)
        save_pipeline(network, process_in(stage), folder, regulariser_of(stage).reads_its_estimate)
        (folder / "history.json").write_text(json.dumps(checkpoint.read_state(trained)["history"]))


def denoising(stage: Stage, context: Context) -> Denoising:
    """Returns the training task of the backbone. Called by every worker."""
    dataset = open_dataset(stage.needs["dataset"], context)
    config = parse(TrainConfig, stage.options["train"], "train")
    index_M = config.storage_order(dataset.splits["train"])
    regulariser = regulariser_of(stage)
    return Denoising(
        partial(_build, stage),
        Chosen(dataset.images, index_M),
        process_in(stage),
        regulariser,
        labels_M=_labels(stage, dataset, index_M) if regulariser.learns_labels else None,
    )


def _build(stage: Stage) -> Any:
    """Returns the untrained network, with what its regulariser learns beside it."""
    network = build_network(stage.config["network"])
    if "regulariser" in stage.config:
        channels = {block.name: block.channels for block in blocks(stage.config["network"])}
        beside = regulariser_of(stage).beside(channels, stage.config.get("classes", 0))
        if beside is not None:
            network.add_module(BESIDE, beside)
    return network


def _labels(stage: Stage, dataset: Dataset, index_M: np.ndarray) -> torch.Tensor:
    """Returns the labels of images `index_M` that probes may learn from, [M]; others are `UNLABELLED`."""
    known_M = np.isin(index_M, dataset.labelled(stage.config["labels_per_class"]))
    return torch.from_numpy(np.where(known_M, dataset.labels[index_M], UNLABELLED).astype(np.int64))


def make_condition(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the tensors of a backbone's condition."""
    config, root = stage.options["network"], stage.options["root"]
    source = None if root is None else Pipeline(Path(root), **stage.options["reading"])
    tensors = family_of(config).make_condition(source, config, stage.options["settings"])
    save_file(tensors, folder / CONDITION)


def copy_opened(stage: Stage, folder: Path, context: Context) -> None:
    """Copies a backbone into a new folder as `load_denoiser` reads it, with its condition if it has one."""
    network = stage.needs.get("network", stage)
    shutil.copytree(
        context.folder(network), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST)
    )
    if network is not stage:
        shutil.copyfile(context.file(stage, CONDITION), folder / CONDITION)


def process_in(stage: Stage) -> NoiseProcess:
    """Returns the noise process of a backbone's stage."""
    return process_of(stage.config["noise"])


def regulariser_of(stage: Stage) -> Regulariser:
    """Returns the regulariser of a backbone's training."""
    regulariser: Regulariser = part_of(REGULARISERS, stage.config.get("regulariser", PLAIN.keyed()))
    return regulariser


def copy_backbone(stage: Stage, folder: Path, context: Context) -> None:
    """Copies a pretrained backbone to the results in diffusers' format; a file of the original code is converted.

    Raises `FloatingPointError` for weights that are not finite.
    """
    source, network = Path(stage.options["source"]), stage.config["network"]
    family, reading, seed = family_of(network), stage.options["reading"], stage.config.get("random")
    seed = None if seed is None else derive_seed(seed, "untrained")
    if source.is_file() and family.original is not None:
        load_attribute(family.original)(source, network, folder, reading, seed)
        save_frame(family, process_in(stage), folder)
    else:
        copy_pipeline(source, network, process_in(stage), folder, seed, reading)
    copied = load_denoiser(folder)
    for module in (copied.network, copied.autoencoder):
        if module is not None:
            refuse_infinite_weights(module.state_dict(), str(source))
