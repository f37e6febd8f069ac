"""The same grid of linear probes in the published way and in ours, in one run.

Published (arXiv 2307.08702): every setting (block, timestep, pool) trains its head by minibatches, with a forward
pass of the U-Net for every image, epoch and setting, and fresh noise each time. Ours: one forward pass per image and
timestep yields every block at every pool; heads are solved on what was kept. Both run in this process, on the same
backbone, images and splits, and both stop a pass at the deepest block they need.

    python benchmarks/probe_protocol.py

The paper trains 28 epochs of 1.28 million images, about 280,000 steps of SGD. With 750 labelled images 28 epochs are
650 steps, in which no head converges, so the published way gets 50 epochs, Adam and standardised features.
`--epochs 28` shows what it does otherwise.
"""

import argparse
import json
import time
from typing import NamedTuple

import numpy as np
import torch

from harness.core.artifacts import ArtifactStore
from harness.core.seeds import stream
from harness.core.stages import Workshop
from harness.core.storage import Storage
from harness.data.dataset import Dataset, load, open_dataset
from harness.data.transforms import as_input
from harness.features.extract import extract
from harness.features.heads.linear import Linear
from harness.features.probe import split
from harness.features.stages import stored_pool
from harness.metrics.accuracy import Accuracy, accuracy
from harness.models.backbone import UNet
from harness.models.denoiser import Denoiser, Taps, load_denoiser
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials

BLOCKS, TIMESTEPS, POOLS = (4, 7, 11), (10, 90), (1, 2, 4)


class Result(NamedTuple):
    """What one way measured."""

    accuracies: dict[tuple[int, int, int], Accuracy]
    passes: int  # of one image through the U-Net
    seconds: float


def published(denoiser: Denoiser, dataset: Dataset, per_class: int, epochs: int) -> Result:
    """Trains each head by minibatches, running the U-Net for every batch."""
    names = {block.number: block for block in UNet(block_out_channels=[16, 32]).plan(8, 1).blocks}
    train, test = dataset.labelled(per_class), dataset.splits["test"]
    images, labels = as_input(torch.from_numpy(dataset.images)), torch.from_numpy(dataset.labels)
    found, passes, began = {}, 0, time.perf_counter()
    for block in BLOCKS:
        read = denoiser.taps([names[block].name])
        for timestep in TIMESTEPS:
            for pool in POOLS:
                torch.manual_seed(stream(0, block, timestep, pool) % 2**63)

                def features(
                    index: np.ndarray,
                    pool: int = pool,
                    timestep: int = timestep,
                    block: int = block,
                    read: Taps = read,
                ) -> torch.Tensor:
                    x = images[index]
                    noised = denoiser.noised(x, torch.randn_like(x), torch.full((len(x),), timestep))
                    with torch.no_grad():
                        activation = read(noised, timestep)[names[block].name]
                    return torch.nn.functional.adaptive_avg_pool2d(activation, pool).flatten(1)

                head = torch.nn.Sequential(
                    torch.nn.BatchNorm1d(names[block].channels * pool**2, affine=False),
                    torch.nn.Linear(names[block].channels * pool**2, len(dataset.classes)),
                )
                optimizer = torch.optim.Adam(head.parameters(), 1e-2)
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
                for _ in range(epochs):
                    for index in torch.from_numpy(train)[torch.randperm(len(train))].split(32):
                        loss = torch.nn.functional.cross_entropy(head(features(index.numpy())), labels[index])
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
                        passes += len(index)
                    schedule.step()
                head.eval()
                right = head(features(test)).argmax(1).numpy() == dataset.labels[test]
                passes += len(test)
                found[block, timestep, pool] = accuracy(right)
        read.remove()
    return Result(found, passes, time.perf_counter() - began)


def ours(denoiser: Denoiser, dataset: Dataset, per_class: int) -> Result:
    """Extracts once a timestep, then solves every head."""
    names = {block.number: block for block in UNet(block_out_channels=[16, 32]).plan(8, 1).blocks}
    index = dataset.probed(per_class)
    found, passes, began = {}, 0, time.perf_counter()
    for timestep in TIMESTEPS:
        stored = {
            (block, pool): stored_pool(pool, POOLS, names[block].size) for block in BLOCKS for pool in POOLS
        }
        taps = sorted({(names[block].name, kept) for (block, _), kept in stored.items()})
        features = extract(
            denoiser, dataset.images, index,
            timestep=timestep, taps=taps, draws=1, seed=0, batch=256,
        )  # fmt: skip
        passes += len(index)
        for (block, pool), kept in stored.items():
            pooled = torch.nn.functional.adaptive_avg_pool2d(features[names[block].name, kept], pool)
            train, validation, test = split(
                pooled.flatten(1).numpy(), dataset.labels[index], dataset, per_class
            )
            head = Linear().fit(train, validation, len(dataset.classes), 0, "cpu")
            found[block, timestep, pool] = accuracy(head.predict(test.x_ND) == test.labels_N)
    return Result(found, passes, time.perf_counter() - began)


def main() -> None:
    """Prints both ways side by side, then the ratios."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--results", default="results", help="where the quickstart's backbone is kept")
    options.add_argument("--labels-per-class", type=int, default=75)
    options.add_argument("--epochs", type=int, default=50)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    workshop = Workshop(
        ArtifactStore(Storage(chosen.results)), {}, ray=False, say=lambda who, line: print(who, line)
    )
    experiment = load_experiment("quickstart", ["weights=null"])
    trial = all_trials(experiment, load(experiment.data, experiment.seed))[0]
    denoiser = load_denoiser(workshop.folder(trial.needs["backbone"]))
    dataset = open_dataset(trial.needs["dataset"], workshop)

    mine = ours(denoiser, dataset, chosen.labels_per_class)
    theirs = published(denoiser, dataset, chosen.labels_per_class, chosen.epochs)
    print("block timestep pool   published             ours")
    agree = 0
    for setting, a in theirs.accuracies.items():
        b = mine.accuracies[setting]
        overlap = a.low <= b.high and b.low <= a.high
        agree += overlap
        texts = [f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]" for one in (a, b)]
        print(
            f"{setting[0]:5} {setting[1]:8} {setting[2]:4}   {texts[0]}  {texts[1]}  {'' if overlap else 'DIFFERS'}"
        )
    facts = {
        "settings": len(mine.accuracies),
        "agree_within_intervals": agree,
        "mean_difference": float(
            np.mean([mine.accuracies[s].value - a.value for s, a in theirs.accuracies.items()])
        ),
        "passes_published": theirs.passes,
        "passes_ours": mine.passes,
        "times_fewer_passes": round(theirs.passes / mine.passes, 1),
        "seconds_published": round(theirs.seconds, 1),
        "seconds_ours": round(mine.seconds, 1),
        "times_less_wall_time": round(theirs.seconds / mine.seconds, 1),
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
