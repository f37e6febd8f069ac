"""The task of fine-tuning, and the maker of its artifact: a diffusers pipeline and the head."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from harness.core.config import parse
from harness.core.stages import Context, Stage
from harness.data.dataset import open_dataset
from harness.data.transforms import Chosen, as_input
from harness.features.backbone import copy_opened
from harness.features.extract import load_backbone
from harness.features.finetune.adapters import attach, merge
from harness.features.finetune.config import Lora
from harness.features.heads.head import head_of
from harness.models.backbones.denoiser import Denoiser
from harness.training import checkpoint
from harness.training.config import Augment, TrainConfig
from harness.training.launch import train
from harness.training.randomness import StepRandomness
from harness.training.tasks import label_loss

HEAD = "head.safetensors"
ABOUT = "tuned.json"  # the loss history, and the number of parameters learnt


class Tuned(nn.Module):
    """A denoising network read at one block, with a head on the features.

    `encoder` is the whole network; the pass ends at the block, and layers after it are not trained. With adapters,
    the state has no weights of the encoder but theirs.
    """

    shape: tuple[int, int, int]  # of the head's input: (C', pool, pool)
    unchanged: frozenset[str] = frozenset()  # names of the tensors that the state leaves out

    def __init__(self, denoiser: Denoiser, module: str, pool: int, head: nn.Module) -> None:
        super().__init__()
        self.encoder = denoiser.network
        self.folder = denoiser.family.folder  # of the encoder in a pipeline
        self.head = head
        self._denoiser, self._module, self._pool = denoiser, module, pool

    def forward(self, z_BCHW: torch.Tensor, timestep: int) -> torch.Tensor:
        """Returns scores [B, classes] of inputs noised to `timestep`."""
        return self.head(self.features(z_BCHW, timestep))

    def features(self, z_BCHW: torch.Tensor, timestep: int) -> torch.Tensor:
        """Returns the block's pooled feature map [B, C', pool, pool], float32."""
        read = self._denoiser.reader([self._module])
        try:
            activation_BCHW = read(z_BCHW, timestep)[self._module]
        finally:
            read.remove()
        return nn.functional.adaptive_avg_pool2d(activation_BCHW.float(), self._pool)

    def unfreeze(self, z_BCHW: torch.Tensor, timestep: int) -> None:
        """Makes trainable exactly the parameters that affect the block's output, found by one pass of `z_BCHW`."""
        parameters = list(self.encoder.requires_grad_(True).parameters())
        with torch.enable_grad():
            reached = self.features(z_BCHW, timestep).sum()
            gradients = torch.autograd.grad(reached, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)

    def adapt(self, lora: Lora) -> None:
        """Adds adapters to the trainable layers that `lora` names; of the encoder, only they learn."""
        attach(self.encoder, lora)
        learnt = {name for name, one in self.named_parameters() if one.requires_grad}
        self.unchanged = frozenset(super().state_dict()) - learnt

    def state_dict(self, *arguments: Any, **settings: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns the state; with adapters, only theirs and the head's."""
        state = super().state_dict(*arguments, **settings)
        return {name: value for name, value in state.items() if name not in self.unchanged}

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **settings: Any) -> Any:
        """Loads what `state_dict` returned."""
        kept = {name: value for name, value in super().state_dict().items() if name in self.unchanged}
        return super().load_state_dict({**kept, **state_dict}, *arguments, **settings)


class FineTuning:
    """Learns labels, as `label_loss` has them, of images (uint8 [M, C, H, W]) noised to one timestep.

    Every step draws new noise and augmentation, by address, so they do not depend on the number of workers.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        module: str,
        pool: int,
        timestep: int,
        build_head: Callable[[tuple[int, int, int]], nn.Module],
        images: torch.Tensor | Chosen,
        labels: torch.Tensor,
        augment: Augment | None,
        lora: Lora | None = None,
        checkpointing: bool = False,
    ) -> None:
        """With `lora`, adapters learn in place of the encoder; `checkpointing` saves memory for gradients."""
        self.examples = len(images)
        self._denoiser, self._module, self._pool, self._timestep = denoiser, module, pool, timestep
        self._build_head, self._augment = build_head, augment
        self._lora, self._checkpointing = lora, checkpointing
        self._images, self._labels = images, labels

    def model(self) -> Tuned:
        """Returns the backbone with an untrained head, in training mode."""
        tuned = Tuned(self._denoiser, self._module, self._pool, nn.Identity())
        with torch.no_grad():
            z_1CHW = self._denoiser.encode(as_input(self._images[:1].to(self._denoiser.device)))
            _, channels, height, width = tuned.features(z_1CHW, self._timestep).shape
        tuned.unfreeze(z_1CHW, self._timestep)
        if self._lora is not None:
            tuned.adapt(self._lora)
        if self._checkpointing:
            tuned.encoder.enable_gradient_checkpointing()
        tuned.shape = (channels, height, width)
        tuned.head = self._build_head(tuned.shape).float()
        return tuned.train()

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the cross-entropy [N]."""
        if self._denoiser.device != randomness.device:
            self._denoiser.to(randomness.device)
        with torch.no_grad():
            x_NCHW = as_input(self._images[index_N].to(randomness.device))
            if self._augment is not None:
                x_NCHW = randomness.augmented("augment", x_NCHW, self._augment)
            z_NCHW = self._denoiser.encode(x_NCHW)
            timesteps_N = torch.full((len(z_NCHW),), self._timestep, device=randomness.device)
            noised_NCHW = self._denoiser.noised(z_NCHW, randomness.normal("noise", z_NCHW), timesteps_N)
        with randomness.seeded("dropout"):
            scores_NK = model(noised_NCHW, self._timestep)
        return label_loss(scores_NK, self._labels[index_N].to(randomness.device))

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Takes no snapshots."""


def fine_tuning(stage: Stage, context: Context) -> FineTuning:
    """Returns the task of a stage, with its own copy of the backbone. Called by every worker."""
    dataset = open_dataset(stage.needs["dataset"], context)
    config = parse(TrainConfig, stage.options["tune"], "finetune.tune")
    labelled = config.storage_order(dataset.labelled(stage.config["labels_per_class"]))
    head = head_of(stage.config["head"])
    augment, lora = stage.config["augment"], stage.config.get("lora")
    return FineTuning(
        load_backbone(stage.needs["backbone"], context),
        stage.config["module"],
        stage.config["pool"],
        stage.config["timestep"],
        lambda shape: head.module(shape, len(dataset.classes)),
        Chosen(dataset.images, labelled),
        torch.from_numpy(dataset.labels[labelled]),
        Augment(**augment) if augment else None,
        Lora(**lora) if lora else None,
        stage.options["checkpointing"],
    )


def make_tuned(stage: Stage, folder: Path, context: Context) -> None:
    """Fine-tunes on the labelled images; writes the whole pipeline, the head and `tuned.json`.

    Adapters are merged into the weights, so that the pipeline is a plain one.
    """
    config = parse(TrainConfig, stage.options["tune"], "finetune.tune")
    with context.store.scratch() as trained:
        maker = "harness.features.finetune.task:fine_tuning"
        train(maker, stage, config, stage.config["seed"], trained, context)
        weights = checkpoint.trained_weights(trained)
        history = checkpoint.read_state(trained)["history"]
    with torch.random.fork_rng(devices=[]):
        tuned = fine_tuning(stage, context).model()
    tuned.load_state_dict(weights)
    learnt = sum(one.numel() for one in tuned.parameters() if one.requires_grad)
    merge(tuned.encoder)
    copy_opened(stage.needs["backbone"], folder, context)
    tuned.encoder.save_pretrained(folder / tuned.folder, safe_serialization=True)
    save_file(tuned.head.state_dict(), folder / HEAD)
    about = {"parameters": learnt, "shape": tuned.shape, "history": history}
    (folder / ABOUT).write_text(json.dumps(about))


def read_about(stage: Stage, context: Context) -> dict[str, Any]:
    """Returns {"parameters": number learnt, "shape": of the head's input, "history": of the loss}."""
    return json.loads(context.file(stage, ABOUT).read_text())


def read_head(stage: Stage, context: Context, classes: int) -> nn.Module:
    """Returns the head that was trained with the encoder."""
    shape = tuple(read_about(stage, context)["shape"])
    head = head_of(stage.config["head"]).module(shape, classes)
    head.load_state_dict(load_file(context.file(stage, HEAD)))
    return head.eval().requires_grad_(False)
