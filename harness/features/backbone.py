"""Makes the diffusion backbone: trained here, copied from a folder, or left untrained as a control."""

import json
import shutil
from functools import partial
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from harness.core.config import parse
from harness.core.stages import Stage, Workshop
from harness.data.dataset import open_dataset
from harness.models.denoiser import build_unet, save_frame, save_pipeline
from harness.training import checkpoint
from harness.training.config import TrainConfig
from harness.training.launch import train
from harness.training.tasks import Denoising


def train_backbone(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Trains the U-Net on the training images, without labels; writes a diffusers pipeline and the loss history."""
    config = parse(TrainConfig, stage.options["train"], "train")
    with workshop.store.scratch() as trained:
        train("harness.features.backbone:denoising", stage, config, stage.config["seed"], trained, workshop)
        unet = build_unet(stage.config["unet"])
        unet.load_state_dict(checkpoint.trained_weights(trained))
        save_pipeline(unet, stage.config["scheduler"], folder)
        (folder / "history.json").write_text(json.dumps(checkpoint.read_state(trained)["history"]))


def denoising(stage: Stage, workshop: Workshop) -> Denoising:
    """Returns what the backbone learns. Called by every worker."""
    dataset = open_dataset(stage.needs["dataset"], workshop)
    images = torch.from_numpy(dataset.images[dataset.splits["train"]])
    scheduler = DDPMScheduler.from_config(stage.config["scheduler"])
    return Denoising(partial(build_unet, stage.config["unet"]), images, scheduler)


def copy_backbone(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Copies a U-Net in diffusers' format to where workers find it."""
    source = Path(stage.options["folder"])
    (folder / "unet").mkdir()
    shutil.copyfile(
        source / "diffusion_pytorch_model.safetensors",
        folder / "unet" / "diffusion_pytorch_model.safetensors",
    )
    (folder / "unet" / "config.json").write_text(json.dumps(stage.config["unet"]))
    save_frame(stage.config["scheduler"], folder)
