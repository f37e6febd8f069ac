"""Starts training, on Ray Train's workers or in the calling process. Only this file imports `ray.train`.

A run is named by its stage's key, so the same command resumes it after a worker or the driver has died. In the
calling process this requires results on a local disk; on an object store such a run, which is short, starts over.
"""

import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.core.registry import load_attribute
from harness.core.stages import Context, Stage
from harness.training import checkpoint
from harness.training.config import TrainConfig
from harness.training.device import pick_device
from harness.training.loop import ProcessGroup, fit
from harness.training.tasks import Task

WORKER_FAILURES = 10  # how many times a run may lose workers before it fails

TaskFactory = Callable[[Stage, Context], Task]


def train(factory: str, stage: Stage, config: TrainConfig, seed: int, folder: Path, context: Context) -> None:
    """Trains the task that `factory` ("module:function") makes for a stage; writes weights and history."""
    if not context.ray or config.workers == 0 or config.steps == 0:
        _train_here(factory, stage, config, seed, folder, context)
    else:
        _train_on_ray(factory, stage, config, seed, folder, context)


def _train_here(
    factory: str, stage: Stage, config: TrainConfig, seed: int, folder: Path, context: Context
) -> None:
    root = context.store.storage.local
    kept = root / "training" / f"{stage.kind}-{stage.key}" if root else folder.with_name("checkpoint")
    kept.parent.mkdir(parents=True, exist_ok=True)
    task: Task = load_attribute(factory)(stage, context)
    say = partial(context.progress, stage.kind, stage.key)
    fit(task, config, seed, ProcessGroup(pick_device(context), kept, say))
    _take(kept, folder)
    shutil.rmtree(kept)


def _take(source: Path, folder: Path) -> None:
    """Copies a checkpoint without the files needed only to resume."""
    for file in source.iterdir():
        if file.name not in checkpoint.FILES_FOR_RESUMING and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)


def _train_on_ray(
    factory: str, stage: Stage, config: TrainConfig, seed: int, folder: Path, context: Context
) -> None:
    import ray
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    storage = context.store.storage
    workers = config.workers if isinstance(config.workers, int) else (config.workers[0], config.workers[-1])
    name = f"{stage.kind}-{stage.key}"
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "factory": factory,
            "stage": stage,
            "config": config,
            "seed": seed,
            "context": context,
        },
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=context.accelerators and ray.cluster_resources().get("GPU", 0) > 0
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage.full("training"),
            storage_filesystem=None if storage.local else PyFileSystem(FSSpecHandler(storage.fs)),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=WORKER_FAILURES),
        ),
    )
    result = trainer.fit()
    if result.error is not None:
        raise result.error
    if result.return_value is not None:
        raise RuntimeError(f"training failed on a worker:\n{result.return_value}")
    with result.checkpoint.as_directory() as kept:
        _take(Path(kept), folder)
    storage.remove(f"training/{name}")


def _work(settings: dict[str, Any]) -> str | None:
    """Runs on each of Ray Train's workers. Returns the traceback of a failure that Ray must not retry, else None."""
    import ray.train.torch

    context, stage = settings["context"], settings["stage"]
    processes = _RayProcessGroup(ray.train.torch.get_device(), stage, context)
    try:
        fit(
            load_attribute(settings["factory"])(stage, context),
            settings["config"],
            settings["seed"],
            processes,
        )
    except Exception as error:
        # A non-finite mean loss stops all workers at the same step. Other errors may hit one worker only, and only
        # raising releases the others, which wait for it.
        if processes.size == 1 or isinstance(error, FloatingPointError):
            return traceback.format_exc()
        raise
    return None


class _RayProcessGroup(ProcessGroup):
    """One of Ray Train's workers."""

    def __init__(self, device: torch.device, stage: Stage, context: Context) -> None:
        import ray.train

        train_context = ray.train.get_context()
        self.rank, self.size = train_context.get_world_rank(), train_context.get_world_size()
        super().__init__(device, say=partial(context.progress, stage.kind, stage.key))

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model) if self.size > 1 else model

    def mean(self, value: torch.Tensor) -> float:
        if self.size == 1:
            return float(value)
        total = value.clone()
        torch.distributed.all_reduce(total)
        return float(total) / self.size

    def saved(self) -> AbstractContextManager[Path | None]:
        import ray.train

        @contextmanager
        def folder() -> Iterator[Path | None]:
            found = ray.train.get_checkpoint()
            if found is None:
                yield None
                return
            with found.as_directory() as kept:
                yield Path(kept)

        return folder()

    def save(self, write: Callable[[Path], None], loss: float) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            kept = None
            if self.rank == 0:
                write(Path(folder))
                kept = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"loss": loss}, checkpoint=kept)
