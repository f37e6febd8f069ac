"""Starts training, on Ray Train's workers or in the calling process. Only this file imports `ray.train`.

Checkpoints are named by the stage's key, so the same command resumes a run after a worker or the driver has died.
"""

import shutil
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.core.artifacts import MANIFEST
from harness.core.leftovers import scratch_folder
from harness.core.registry import load_attribute
from harness.core.stages import STAGE_GPU, Context, Stage
from harness.core.threads import one_thread
from harness.training import checkpoint
from harness.training.checkpoints import Checkpoints
from harness.training.config import TrainConfig
from harness.training.device import pick_device
from harness.training.loop import ProcessGroup, fit
from harness.training.tasks import Task

WORKER_FAILURES = 10  # how many times a run may lose workers before it fails

TaskFactory = Callable[[Stage, Context], Task]


def train(factory: str, stage: Stage, config: TrainConfig, seed: int, folder: Path, context: Context) -> None:
    """Trains the task that `factory` ("module:function") makes for a stage; writes weights and history."""
    kept = _checkpoints(stage, context)
    if not context.ray or config.workers == 0 or config.steps == 0:
        task: Task = load_attribute(factory)(stage, context)
        say = partial(context.progress, stage.kind, stage.key)
        fit(task, config, seed, ProcessGroup(pick_device(context), kept, say))
    else:
        _train_on_ray(factory, stage, config, seed, context)
    with kept.newest(checkpoint.FILES_FOR_RESUMING) as found:
        if found is None or checkpoint.read_state(found)["step"] < config.steps:
            raise RuntimeError(
                "the last checkpoint was damaged after training; the next run resumes before it"
            )
        _take(found, folder)
    kept.remove()


def _checkpoints(stage: Stage, context: Context) -> Checkpoints:
    return Checkpoints(
        context.store, f"{stage.kind}-{stage.key}", partial(context.progress, stage.kind, stage.key)
    )


def _take(source: Path, folder: Path) -> None:
    """Copies a checkpoint without what is needed only to resume."""
    for file in source.iterdir():
        if file.name not in (*checkpoint.FILES_FOR_RESUMING, MANIFEST):
            shutil.copyfile(file, folder / file.name)


def _train_on_ray(factory: str, stage: Stage, config: TrainConfig, seed: int, context: Context) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers = config.workers if isinstance(config.workers, int) else (config.workers[0], config.workers[-1])
    # Ray Train only starts, watches and restarts the workers. Its own notes of a run are of no use to a later one.
    notes = scratch_folder(Path(tempfile.gettempdir()), "harness-train-")
    use_gpu = context.accelerators and ray.cluster_resources().get("GPU", 0) > 0
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
            num_workers=workers,
            use_gpu=use_gpu,
            # Ray Train counts how many workers of an elastic run fit, and with shares of a GPU it counts too many.
            resources_per_worker={"GPU": STAGE_GPU} if use_gpu and isinstance(workers, int) else None,
        ),
        run_config=RunConfig(
            name=f"{stage.kind}-{stage.key}",
            storage_path=str(notes),
            failure_config=FailureConfig(max_failures=WORKER_FAILURES),
        ),
    )
    try:
        result = trainer.fit()
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if result.error is not None:
        raise result.error
    if result.return_value is not None:
        raise RuntimeError(f"training failed on a worker:\n{result.return_value}")


def _work(settings: dict[str, Any]) -> str | None:
    """Runs on each of Ray Train's workers. Returns the traceback of a failure that Ray must not retry, else None."""
    import ray.train.torch

    context, stage = settings["context"], settings["stage"]
    processes = _RayProcessGroup(ray.train.torch.get_device(), stage, context)
    try:
        task = load_attribute(settings["factory"])(stage, context)
        with one_thread():
            fit(task, settings["config"], settings["seed"], processes)
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
        super().__init__(
            device, _checkpoints(stage, context), partial(context.progress, stage.kind, stage.key)
        )

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model) if self.size > 1 else model

    def mean(self, value: torch.Tensor) -> float:
        if self.size == 1:
            return float(value)
        total = value.clone()
        torch.distributed.all_reduce(total)
        return float(total) / self.size
