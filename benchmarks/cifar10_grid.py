"""The paper's grid of linear probes on CIFAR-10: the published method against ours, cached and streamed, in one run.

7 blocks, 7 timesteps, 4 pools (arXiv 2307.08702): 196 settings of a small U-Net that is trained first.

published  every setting trains its head separately: 28 epochs of SGD, batch 128, one forward pass of the U-Net up
           to the block per image, epoch and setting, with new noise, crop and flip
streamed   the same protocol, all 28 heads of a timestep in parallel from one stream of passes
cached     one pass per image and timestep yields all blocks and pools; each head is solved to convergence, with its
           strength chosen on validation; no augmentation, one noise draw

    python benchmarks/cifar10_grid.py FOLDER      # with CIFAR-10's train and test Parquet files
    python benchmarks/cifar10_grid.py             # downloads it from the Hugging Face Hub

The first two should agree, which is tested over settings. With few images, cached heads do better, because 28 epochs
are then too few steps for the published protocol to converge; the last line shows by how much. Everything runs on one
thread, so that "core s" is comparable even on a busy machine; a GPU is used if there is one. The published method may
be run on a random subset of settings: --published 28 scales the cost of these 28 by 196 / 28, and says so. The
backbone is trained before the clocks start.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from harness.core.artifacts import ArtifactStore
from harness.core.config import parse
from harness.core.seeds import derive_seed, rng
from harness.core.stages import Context, Trial, run
from harness.core.storage import Storage
from harness.data.config import DataConfig
from harness.data.dataset import Dataset, Images
from harness.data.transforms import as_input
from harness.features.config import FeaturesConfig
from harness.features.extract import open_denoiser
from harness.features.study import STUDY
from harness.metrics.accuracy import Estimate, accuracy
from harness.metrics.inference import student_interval
from harness.models.backbones.denoiser import Denoiser
from harness.training.augment import augmented
from harness.training.config import Augment

BLOCKS, POOLS = [3, 5, 8, 10, 12, 15, 18], [1, 2, 4, 8]
TIMESTEPS = [10, 30, 50, 90, 150, 300, 500]
EPOCHS, BATCH, RATE = 28, 128, 1e-2  # the learning rate falls tenfold after every 7 epochs
HUB = "uoft-cs/cifar10"

Setting = tuple[int, int, int]  # block, timestep, pool


class Result(NamedTuple):
    """What one method measured, on all or some settings."""

    accuracies: dict[Setting, Estimate]
    passes: float  # of one image through the U-Net
    seconds: float
    busy: float  # CPU seconds of this process, independent of the machine's load


def published(denoiser: Denoiser, trials: Sequence[Trial], dataset: Dataset, seed: int) -> Result:
    """Trains the head of each trial's setting separately, running the U-Net for every batch."""
    train, test = dataset.labelled(None), dataset.splits["test"]
    device = denoiser.device
    images, labels = torch.from_numpy(dataset.images), torch.from_numpy(dataset.labels).to(device)
    found, passes, clock = {}, 0, Clock()
    for trial in trials:
        setting = setting_of(trial)
        torch.manual_seed(derive_seed(seed, *setting) % 2**63)
        name, timestep, pool = trial.axes["block_name"], trial.axes["timestep"], trial.axes["pool"]
        read = denoiser.reader([name])

        def features(
            x: torch.Tensor, read=read, name: str = name, timestep: int = timestep, pool: int = pool
        ) -> torch.Tensor:
            with torch.no_grad():
                noised = denoiser.noised(
                    x, torch.randn_like(x), torch.full((len(x),), timestep, device=device)
                )
                return torch.nn.functional.adaptive_avg_pool2d(read(noised, timestep)[name], pool).flatten(1)

        width = features(as_input(images[:1].to(device))).shape[1]
        head = torch.nn.Linear(width, len(dataset.classes)).to(device)
        optimizer = torch.optim.SGD(head.parameters(), RATE)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, EPOCHS // 4)
        for _ in range(EPOCHS):
            for index in torch.from_numpy(train)[torch.randperm(len(train))].split(BATCH):
                address = torch.randint(2**31, (len(index), 3), device=device)
                x = augmented(as_input(images[index].to(device)), seed, address, Augment())
                loss = torch.nn.functional.cross_entropy(head(features(x)), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                passes += len(index)
            schedule.step()
        with torch.no_grad():
            parts = torch.from_numpy(test).split(BATCH)
            right = torch.cat(
                [head(features(as_input(images[i].to(device)))).argmax(1) == labels[i] for i in parts]
            )
        passes += len(test)
        found[setting] = accuracy(right.cpu().numpy())
        read.remove()
    return Result(found, passes, *clock.read())


def ours(trials: Sequence[Trial], context: Context) -> Result:
    """Runs the harness's trials as a sweep does, in this process."""
    found, jobs, clock = {}, {}, Clock()
    for trial in trials:
        outcome = run(trial, context, "")
        row = outcome.tables["features"][0]
        if outcome.failed:
            raise RuntimeError(row["error"])
        names = ("", "_low", "_high", "_n")
        found[setting_of(trial)] = Estimate(*(row[f"test_accuracy{name}"] for name in names))
        jobs |= {stage.job: stage.work.image_passes for stages in trial.reads.values() for stage in stages}
    return Result(found, sum(jobs.values()), *clock.read())


class Clock:
    """Wall time and this process's CPU time since its creation."""

    def __init__(self) -> None:
        self._wall, self._core = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Returns both, in seconds."""
        return time.perf_counter() - self._wall, time.process_time() - self._core


def setting_of(trial: Trial) -> Setting:
    """Returns the trial's setting."""
    return trial.axes["block"], trial.axes["timestep"], trial.axes["pool"]


class Grid(NamedTuple):
    """The experiment, for all methods."""

    features: dict[str, object]
    images: Images
    seed: int

    @property
    def dataset(self) -> Dataset:
        """The images."""
        return self.images.dataset

    def trials(self, **way: object) -> list[Trial]:
        """Returns the trials of one method."""
        config = parse(FeaturesConfig, {**self.features, **way}, "features")
        return STUDY.trials(config, self.images, self.seed)


def grid_of(chosen: argparse.Namespace) -> Grid:
    """Reads the images and returns the grid on them."""
    where = {"name": "parquet", "path": chosen.folder} if chosen.folder else {"name": "hub", "path": HUB}
    most = {"max_train": chosen.train, "max_validation": chosen.validation, "max_test": chosen.test}
    data = parse(DataConfig, {**where, **most}, "data")
    features = {
        "backbone": {
            "name": "unet",
            "block_out_channels": chosen.widths,
            "attention": [False, False, True],
        },
        "train": {"steps": chosen.steps, "batch": 32, "learning_rate": 1e-3, "workers": 0},
        "blocks": BLOCKS,
        "timesteps": TIMESTEPS,
        "pools": POOLS,
        "heads": ["linear"],
        "controls": [],
        "precision": "float32",
    }
    return Grid(features, Images.read(data, chosen.seed), chosen.seed)


def agreement(one: Result, other: Result) -> dict[str, object]:
    """Compares two methods on their common settings: paired over settings, and setting by setting."""
    both = [setting for setting in one.accuracies if setting in other.accuracies]
    pairs = [(one.accuracies[setting], other.accuracies[setting]) for setting in both]
    differences = np.array([b.value - a.value for a, b in pairs])
    return {
        "settings": len(pairs),
        "mean_difference": round(float(differences.mean()), 4),
        "interval": [None if end is None else round(end, 4) for end in student_interval(differences)],
        "overlap": sum(a.low <= b.high and b.low <= a.high for a, b in pairs),
    }


def show(ways: dict[str, Result], measured: Result, settings: int) -> None:
    """Prints the table and the ratios."""
    titles = ["settings", "passes", "fewer", "wall s", "less", "core s", "less", "accuracy"]
    print(" " * 10 + "".join(f"{title:>{15 if title == 'passes' else 10}}" for title in titles))
    first = ways["published"]
    for name, one in ways.items():
        times = [a / b for a, b in zip(first[1:], one[1:], strict=True)]
        mean = np.mean([found.value for found in one.accuracies.values()])
        print(
            f"{name:10}{len(one.accuracies):10}{one.passes:15,.0f}{times[0]:9.1f}x{one.seconds:10.1f}{times[1]:9.1f}x"
            f"{one.busy:10.1f}{times[2]:9.1f}x{mean:10.3f}"
        )
    if len(measured.accuracies) < settings:
        print(
            f"published: {len(measured.accuracies)} settings drawn at random took {measured.seconds:.1f} s; its "
            f"passes and seconds above are extrapolated by {settings} / {len(measured.accuracies)}"
        )
    for name in ("streamed", "cached"):
        facts = agreement(measured, ways[name])
        print(f"{name} minus published, test accuracy: {json.dumps(facts)}")


def main() -> None:
    """Trains the backbone, runs the three methods and prints them side by side."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", nargs="?", help="Parquet files; without it they are downloaded")
    options.add_argument("--train", type=int, default=256, help="labelled images")
    options.add_argument("--validation", type=int, default=256)
    options.add_argument("--test", type=int, default=500)
    options.add_argument("--widths", type=int, nargs=3, default=[8, 16, 16], help="channels of the U-Net")
    options.add_argument("--steps", type=int, default=300, help="of the U-Net's training, of 32 images each")
    options.add_argument("--published", type=int, default=196, help="settings run with the published method")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    grid = grid_of(chosen)
    with tempfile.TemporaryDirectory(prefix="cifar10-grid-") as folder:
        context = Context(ArtifactStore(Storage(folder)), {}, ray=False)
        streamed, cached = grid.trials(protocol="published"), grid.trials(caching="cached")
        denoiser = open_denoiser(cached[0].needs["backbone"], context)
        context.ensure(grid.images.stage)
        order = rng(chosen.seed, "published").permutation(len(cached))[: chosen.published]
        ways = {"cached": ours(cached, context)}
        print(f"cached: {ways['cached'].seconds:.1f} s", flush=True)
        ways["streamed"] = ours(streamed, context)
        print(f"streamed: {ways['streamed'].seconds:.1f} s", flush=True)
        measured = published(denoiser, [cached[place] for place in sorted(order)], grid.dataset, chosen.seed)
    factor = len(cached) / len(order)
    whole = Result(measured.accuracies, *(factor * amount for amount in measured[1:]))
    show({"published": whole, **ways}, measured, len(cached))


if __name__ == "__main__":
    main()
