"""Streamed heads trained by gradient descent: all blocks, pools and heads in parallel, from one stream of passes.

Every step runs the frozen backbone once on its images, with new noise (and, in the published protocol, crops and
flips), up to the deepest block. What a head learns does not depend on which other heads are trained with it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.core.config import parse
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.data.transforms import as_input
from harness.features.extract import ModulePool, autocast, open_denoiser, read_blocks, used_precision
from harness.features.heads.head import head_of
from harness.features.standardise import scale_of
from harness.features.streaming.stages import head_key
from harness.features.streaming.streamed_head import EVALUATION, StreamedHead, publish
from harness.models.backbones.blocks import OUTPUT
from harness.models.backbones.denoiser import Denoiser
from harness.training import checkpoint
from harness.training.config import Augment, TrainConfig
from harness.training.launch import train
from harness.training.randomness import StepRandomness

SAMPLED = 4096  # largest number of training images from which means and deviations are estimated
LARGEST_LOSS, LARGEST_WEIGHT = 1e30, 1e12  # beyond these, or not finite, a head has diverged
FACTORY = "harness.features.streaming.side_by_side:side_by_side"


class Standardised(nn.Module):
    """A head that standardises each of its features [N, C, P, P] first."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean_CPP: torch.Tensor, scale_CPP: torch.Tensor, head: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", mean_CPP)
        self.register_buffer("scale", scale_CPP)
        self.head = head

    def forward(self, x_NCPP: torch.Tensor) -> torch.Tensor:
        """Returns scores [N, classes]."""
        return self.head((x_NCPP - self.mean) / self.scale)


class Heads(nn.ModuleDict):
    """Heads by name; `taps` says which features each reads."""

    taps: Mapping[str, ModulePool]

    def forward(self, features: Mapping[ModulePool, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns scores [N, classes] by name, for features [N, C, P, P] by tap."""
        return {name: head(features[self.taps[name]]) for name, head in self.items()}


class SideBySide:
    """A `Task`: learns the labels of images from a frozen backbone's features at one timestep."""

    def __init__(
        self,
        denoiser: Denoiser,
        dataset: Dataset,
        cells: Sequence[Mapping[str, Any]],
        augment: Augment | None,
        batch: int,
        train: TrainConfig,
    ) -> None:
        """`cells` are the configurations of stages that differ only in block, pool and head."""
        self._index_M = train.storage_order(dataset.labelled(cells[0]["labels_per_class"]))
        self.examples = len(self._index_M)
        self._denoiser, self._dataset, self._cells = denoiser, dataset, cells
        self._augment, self._batch = augment, batch
        self._timestep, self._precision = cells[0]["timestep"], cells[0]["precision"]
        self.taps = in_order(cells)

    def model(self) -> Heads:
        """Returns the heads before training, each initialised from its own seed."""
        published = self._cells[0]["protocol"] == "published"
        moments = {} if published else self._moments()
        heads, classes = Heads(), len(self._dataset.classes)
        heads.taps = {name_of(cell): (cell["module"], cell["pool"]) for cell in self._cells}
        for cell in self._cells:
            shape = cell["channels"], cell["pool"], cell["pool"]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(cell["seed"], "head", name_of(cell)) % 2**63)
                module = head_of(cell["head"]).module(shape, classes).float()
            tap = heads.taps[name_of(cell)]
            heads[name_of(cell)] = module if published else Standardised(*moments[tap], module)
        return heads

    def loss(self, model: nn.Module, index_N: torch.Tensor, randomness: StepRandomness) -> torch.Tensor:
        """Returns the sum over heads of the cross-entropies [N], leaving out heads that have diverged."""
        labels_N = torch.from_numpy(self._dataset.labels[self._index_M[index_N]]).to(randomness.device)
        total_N = torch.zeros(len(index_N), device=randomness.device)
        for scores_NK in model(self._features(index_N, randomness)).values():
            losses_N = nn.functional.cross_entropy(scores_NK.float(), labels_N, reduction="none")
            total_N = total_N + torch.where(losses_N < LARGEST_LOSS, losses_N, torch.zeros_like(losses_N))
        return total_N

    def snapshot(self, model: nn.Module, step: int) -> None:
        """Takes no snapshots."""

    @torch.no_grad()
    def _features(self, index_N: torch.Tensor, randomness: StepRandomness) -> dict[ModulePool, torch.Tensor]:
        """Returns this step's features by tap, from passes over at most `batch` images each."""
        images_NCHW = torch.from_numpy(self._dataset.images[self._index_M[index_N]]).to(randomness.device)
        x_NCHW = as_input(images_NCHW)
        if self._augment is not None:
            x_NCHW = randomness.augmented("augment", x_NCHW, self._augment)
        denoiser = self._denoiser
        if denoiser.device != randomness.device:
            denoiser.to(randomness.device)
        with autocast(self._precision, denoiser):
            z_NCHW = torch.cat([denoiser.encode(part) for part in x_NCHW.split(self._batch)])
        timesteps_N = torch.full((len(z_NCHW),), self._timestep, device=randomness.device)
        if self._cells[0]["noise"] == "fresh":
            z_NCHW = denoiser.noised(z_NCHW, randomness.normal("noise", z_NCHW), timesteps_N)
        found: dict[ModulePool, list[torch.Tensor]] = {tap: [] for tap in self.taps}
        reader = denoiser.reader(list(dict.fromkeys(module for module, _ in self.taps)))
        try:
            for part in z_NCHW.split(self._batch):
                with autocast(self._precision, denoiser):
                    activations = reader(part, self._timestep)
                for tap in self.taps:
                    pooled = nn.functional.adaptive_avg_pool2d(activations[tap[0]].float(), tap[1])
                    found[tap].append(pooled)
        finally:
            reader.remove()
        return {tap: torch.cat(parts) for tap, parts in found.items()}

    def _moments(self) -> dict[ModulePool, tuple[torch.Tensor, torch.Tensor]]:
        """Returns mean and scale [C, P, P] by tap, over some labelled images that are the same for every worker."""
        sums: dict[ModulePool, torch.Tensor] = {}
        index_M = self._index_M[:: -(-self.examples // SAMPLED)]
        for _, features in read_blocks(
            self._denoiser,
            self._dataset.images,
            index_M,
            timestep=self._timestep,
            taps=self.taps,
            noised=self._cells[0]["noise"] == "fresh",
            draws=1,
            seed=self._cells[0]["seed"],
            batch=self._batch,
            precision=self._precision,
        ):
            for tap, x_BCPP in features.items():
                x = x_BCPP.cpu().double()
                both = torch.stack([x.sum(0), x.square().sum(0)])
                sums[tap] = sums[tap] + both if tap in sums else both
        found = {}
        for tap, (first, second) in sums.items():
            mean = first / len(index_M)
            deviation = (second / len(index_M) - mean.square()).clamp(min=0).sqrt()
            found[tap] = mean.float(), torch.from_numpy(scale_of(deviation.numpy())).float()
        return found


def name_of(cell: Mapping[str, Any]) -> str:
    """Returns the name of a cell's head: its key first, which selects the learning rate."""
    part = "" if cell["after"] == OUTPUT else f"/{cell['after']}"
    return f"{head_key(cell['head'])}/{cell['block']}/{cell['pool']}{part}"


def in_order(cells: Sequence[Mapping[str, Any]]) -> list[ModulePool]:
    """Returns the cells' distinct taps in the order in which the modules run."""
    order = sorted(cells, key=lambda cell: (cell["block"], cell["pool"]))
    return list(dict.fromkeys((cell["module"], cell["pool"]) for cell in order))


def side_by_side(stage: Stage, context: Context) -> SideBySide:
    """Returns the training task of a run. Called by every worker."""
    cells = stage.config["cells"]
    augment = cells[0]["augment"]
    return SideBySide(
        open_denoiser(stage.needs["backbone"], context),
        open_dataset(stage.needs["dataset"], context),
        cells,
        Augment(**augment) if augment else None,
        stage.options["batch"],
        parse(TrainConfig, stage.options["train"], "train"),
    )


def make_heads(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the head of `stage`, and publishes those of its missing siblings, from one training run."""
    began = time.monotonic()
    wanted = [stage, *(sibling for sibling in stage.siblings if not context.has(sibling))]
    cells = sorted((one.config for one in wanted), key=name_of)
    # The run is named by its heads: an interrupted run resumes only with the same heads.
    run = replace(stage, config={"cells": cells}, siblings=(), group=None)
    config = parse(TrainConfig, stage.options["train"], "train")
    with context.store.scratch() as trained:
        train(FACTORY, run, config, stage.config["seed"], trained, context)
        weights = checkpoint.trained_weights(trained)
    task = side_by_side(run, context)
    heads = task.model()
    heads.load_state_dict(weights)
    right = evaluate(heads, task, context, run)
    kept = {
        name: StreamedHead(
            {key: value.numpy() for key, value in heads[name].cpu().state_dict().items()},
            *right[name],
            regularisation=None,
            parameters=sum(one.numel() for one in heads[name].parameters()),
            error=None if bounded(heads[name]) else DIVERGED.format(name),
        )
        for name in heads
    }
    precision = used_precision(cells[0]["precision"], open_denoiser(stage.needs["backbone"], context))
    publish(wanted, [kept[name_of(one.config)] for one in wanted], folder, context, began, precision)


DIVERGED = "head {} (head/block/pool) diverged: its weights grew without bound; lower its learning rate"


def bounded(head: nn.Module) -> bool:
    """Returns whether all weights are finite and of plausible size."""
    return all(bool((value.abs() < LARGEST_WEIGHT).all()) for value in head.state_dict().values())


@torch.no_grad()
def evaluate(
    heads: Heads, task: SideBySide, context: Context, run: Stage
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns each head's correctness on validation and test (boolean), from one pass with separate noise."""
    dataset, cell = open_dataset(run.needs["dataset"], context), run.config["cells"][0]
    denoiser = open_denoiser(run.needs["backbone"], context)
    heads.eval().to(denoiser.device)
    index_M = np.concatenate([dataset.splits["validation"], dataset.splits["test"]])
    right = {name: np.zeros(len(index_M), bool) for name in heads}
    for begin, features in read_blocks(
        denoiser,
        dataset.images,
        index_M,
        timestep=cell["timestep"],
        taps=task.taps,
        noised=cell["noise"] == "fresh",
        draws=1,
        seed=derive_seed(cell["seed"], EVALUATION),
        batch=run.options["batch"],
        precision=cell["precision"],
    ):
        for name, scores_BK in heads(features).items():
            end = begin + len(scores_BK)
            right[name][begin:end] = scores_BK.argmax(1).cpu().numpy() == dataset.labels[index_M[begin:end]]
    count = len(dataset.splits["validation"])
    return {name: (one[:count], one[count:]) for name, one in right.items()}
