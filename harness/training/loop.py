"""The training loop of all tasks: denoising, classification, autoencoding and latent denoising."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.core.progress import Progress
from harness.core.seeds import derive_seed, rng
from harness.training import checkpoint
from harness.training.checkpoints import Checkpoints
from harness.training.config import TrainConfig
from harness.training.randomness import StepRandomness
from harness.training.tasks import Task

SECONDS_BETWEEN_LINES = 2.0
HISTORY_LENGTH = 50


class ProcessGroup:
    """The processes that train together; this class is a single one, `harness.training.launch` has Ray Train's."""

    rank = 0
    size = 1

    def __init__(
        self,
        device: torch.device,
        checkpoints: Checkpoints | None = None,
        say: Callable[[Progress], None] = lambda progress: None,
    ):
        """Without `checkpoints` none are kept; `say(progress)` shows progress."""
        self.device = device
        self._checkpoints = checkpoints
        self.say = say

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns the model that averages gradients over the processes."""
        return model

    def mean(self, value: torch.Tensor) -> float:
        """Returns the mean of a scalar over the processes."""
        return float(value)

    def saved(self) -> AbstractContextManager[Path | None]:
        """Context manager that yields the folder of the newest checkpoint, or None."""
        return nullcontext() if self._checkpoints is None else self._checkpoints.newest()

    def save(self, progress: checkpoint.Progress) -> None:
        """Stores a checkpoint; called by every process at the same step, and the first of them writes it."""
        if self._checkpoints is not None and self.rank == 0:
            self._checkpoints.save(lambda folder: checkpoint.save(progress, folder), progress.step)


@torch.enable_grad()  # the caller may have gradients disabled, e.g. when it remakes a damaged artifact
def fit(task: Task, config: TrainConfig, seed: int, processes: ProcessGroup) -> checkpoint.Progress:
    """Trains `task` for `config.steps` steps, from the newest checkpoint of the processes if there is one.

    The samples, noise and timesteps of every step are the same for any number of processes. Raises
    `FloatingPointError` if the loss is no longer finite.
    """
    progress = _start(task, config, seed, processes.device)
    with processes.saved() as folder:
        if folder is not None:
            checkpoint.restore(progress, folder)
    if (
        progress.step
        and processes.mean(torch.tensor(float(progress.step), device=processes.device)) != progress.step
    ):
        raise RuntimeError("the processes found different checkpoints")
    if progress.step >= config.steps:  # nothing to train, or a run that died after its last step
        if not progress.step:
            processes.save(progress)
        return progress
    model = processes.wrap(progress.model)
    batches = _batches(task.examples, config.batch, seed, progress.step, config.shuffle_window)
    pace = _Pace(config, progress.step, processes, getattr(task, "noun", "images"))
    while progress.step < config.steps:
        factor = decay(config, progress.step)
        for group in progress.optimizer.param_groups:
            group["lr"] = factor * group["rate"]
        loss = _step(task, model, progress, config, next(batches), seed, processes)
        progress.step += 1
        _after_step(task, progress, config, processes, loss, pace)
    return progress


def _start(task: Task, config: TrainConfig, seed: int, device: torch.device) -> checkpoint.Progress:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "init") % 2**63)
        model = task.model()
    model = model.to(device)
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learnt = _groups(model, config)
    if config.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            learnt, config.learning_rate, config.momentum, weight_decay=config.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(learnt, config.learning_rate, weight_decay=config.weight_decay)
    average = copy.deepcopy(model).requires_grad_(False) if config.ema is not None else None
    return checkpoint.Progress(model, optimizer, average)


def _groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Returns the trainable parameters as optimizer groups, one per learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = max((one for one in config.rates if name.startswith(one)), key=len, default=None)
            rate = config.learning_rate if prefix is None else config.rates[prefix]
            groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "rate": rate} for rate, parameters in groups.items()]


def decay(config: TrainConfig, step: int) -> float:
    """Returns the factor on the learning rate at `step`, counted from 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "step" and config.decay_every is not None:
        return config.gamma ** (step // config.decay_every)
    return 1.0


def learning_rate(config: TrainConfig, step: int) -> float:
    """Returns the learning rate at `step`, counted from 0."""
    return config.learning_rate * decay(config, step)


def _batches(
    examples: int, batch: int, seed: int, first_step: int, window: int | None = None
) -> Iterator[torch.Tensor]:
    """Yields the examples of each global batch from `first_step` on, in a new random order every epoch."""
    epoch, place = divmod(first_step * batch, examples)
    order = torch.from_numpy(epoch_order(examples, seed, epoch, window))
    while True:
        indices: list[torch.Tensor] = []
        missing = batch
        while missing:
            taken = order[place : place + missing]
            indices.append(taken)
            missing -= len(taken)
            place += len(taken)
            if place == examples:
                epoch, place = epoch + 1, 0
                order = torch.from_numpy(epoch_order(examples, seed, epoch, window))
        yield torch.cat(indices)


def epoch_order(examples: int, seed: int, epoch: int, window: int | None) -> np.ndarray:
    """Returns the order of an epoch's examples.

    With a `window`, runs of so many neighbours come in random order, each shuffled: a batch reads from one or two of
    them. Where the first ends is random, so that the runs differ between epochs.
    """
    draw = rng(seed, "order", epoch)
    if window is None or window >= examples:
        return draw.permutation(examples)
    edges = np.arange(draw.integers(1, window + 1), examples, window)
    runs = np.split(np.arange(examples), edges)
    return np.concatenate([draw.permutation(runs[place]) for place in draw.permutation(len(runs))])


def _step(
    task: Task,
    model: nn.Module,
    progress: checkpoint.Progress,
    config: TrainConfig,
    index_B: torch.Tensor,
    seed: int,
    processes: ProcessGroup,
) -> torch.Tensor:
    """Takes one optimizer step and returns this process's part of the loss, detached."""
    positions_N = torch.arange(len(index_B))[processes.rank :: processes.size]
    randomness = StepRandomness(seed, progress.step, positions_N.to(processes.device))
    with _autocast(config, processes.device):
        losses_N = task.loss(model, index_B[positions_N], randomness)
    # Gradients are averaged over processes, so each process's sum is scaled to the mean over the whole batch.
    loss = losses_N.sum() * (processes.size / len(index_B))
    progress.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    progress.optimizer.step()
    if progress.ema is not None and config.ema is not None:
        _average(progress.ema, progress.model, min(config.ema, (1 + progress.step) / (10 + progress.step)))
    return loss.detach()


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[None]:
    if config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Moves the average towards the model. The caller lowers `decay` during the first steps."""
    for kept, learnt in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(learnt, 1 - decay)
    for buffer, current in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(current)


def _after_step(
    task: Task,
    progress: checkpoint.Progress,
    config: TrainConfig,
    processes: ProcessGroup,
    loss: torch.Tensor,
    pace: "_Pace",
) -> None:
    """Updates snapshots, history, checkpoints and the progress line after a step."""
    last = progress.step == config.steps
    snapshot = task.snapshot(progress.model, progress.step)
    if snapshot is not None:
        progress.snapshots.append(snapshot)
    saving = last or progress.step % config.checkpoint_steps == 0
    if saving or progress.step % max(1, config.steps // HISTORY_LENGTH) == 0:
        mean = processes.mean(loss)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} at step {progress.step}; lower the learning rate")
        progress.history.append({"step": progress.step, "loss": mean})
    pace.show(progress, last)
    if saving:
        processes.save(progress)


class _Pace:
    """Measures speed and reports progress, from the first process only."""

    def __init__(self, config: TrainConfig, first_step: int, processes: ProcessGroup, examples: str) -> None:
        self._config, self._first, self._processes, self._examples = config, first_step, processes, examples
        self._began = self._shown = time.monotonic()

    def show(self, progress: checkpoint.Progress, last: bool) -> None:
        """Reports loss, examples per second and time left, every few seconds and at the end."""
        now = time.monotonic()
        if (
            self._processes.rank > 0
            or not progress.history
            or (now - self._shown < SECONDS_BETWEEN_LINES and not last)
        ):
            return
        self._shown = now
        rate = (progress.step - self._first) / max(now - self._began, 1e-9)
        self._processes.say(
            Progress(
                progress.step,
                self._config.steps,
                workers=self._processes.size,
                loss=progress.history[-1]["loss"],
                rate=rate * self._config.batch,
                examples=self._examples,
                seconds_left=(self._config.steps - progress.step) / rate,
            )
        )
