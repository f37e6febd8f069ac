"""Trains a small regularised denoiser in one process or several, as Ray Train's workers would."""

from functools import partial

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing, nn

from harness.models.noise_processes.process import process_of
from harness.training.config import TrainConfig
from harness.training.loop import ProcessGroup, fit
from harness.training.regularisers import BESIDE, Dispersive, LinearSeparability, SelfConditioning
from harness.training.tasks import Denoising


class Net(nn.Module):
    """Two convolutions."""

    def __init__(self, channels):
        super().__init__()
        self.block, self.last = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, t):
        return self.last(torch.tanh(self.block(x) + t.view(-1, 1, 1, 1) / 50))


class Several(ProcessGroup):
    """One of several processes."""

    def __init__(self, rank, size):
        super().__init__(torch.device("cpu"))
        self.rank, self.size = rank, size

    def wrap(self, model):
        return nn.parallel.DistributedDataParallel(model)

    def mean(self, value):
        total = value.clone()
        distributed.all_reduce(total)
        return float(total) / self.size


LABELS = torch.arange(20) % 4 - 1  # a quarter of the images have none
REGULARISERS = {
    "dispersive": Dispersive(block="block", weight=5.0, temperature=0.1),
    "self_conditioning": SelfConditioning(),
    "lsep": LinearSeparability(block="block", weights=[3.0, 1.0]),
}


def _net(chosen):
    net = Net(1 + chosen.reads_its_estimate)
    beside = chosen.beside({"block": 4}, 3)
    if beside is not None:
        net.add_module(BESIDE, beside)
    return net


def _train(rank, size, folder, steps):
    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    images = torch.randint(
        0, 256, (20, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for name, chosen in REGULARISERS.items():
        task = Denoising(
            partial(_net, chosen),
            images,
            process_of({"num_train_timesteps": 50}),
            chosen,
            labels_M=LABELS if chosen.learns_labels else None,
        )
        config = TrainConfig(steps=steps, batch=7, optimizer="sgd", learning_rate=0.02)
        progress = fit(
            task, config, 0, Several(rank, size) if size > 1 else ProcessGroup(torch.device("cpu"))
        )
        if rank == 0:
            save_file(progress.model.state_dict(), folder / f"{name}-{size}-{steps}.safetensors")
    if size > 1:
        distributed.destroy_process_group()


def train_with(size, folder, steps=10):
    """Returns the weights after training with so many processes, by regulariser."""
    if size > 1:
        multiprocessing.spawn(_train, (size, folder, steps), nprocs=size)
    else:
        _train(0, size, folder, steps)
    return {name: load_file(folder / f"{name}-{size}-{steps}.safetensors") for name in REGULARISERS}
