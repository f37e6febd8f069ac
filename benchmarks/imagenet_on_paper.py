"""What would the published grid cost on ImageNet-1k with ADM? The plan of that sweep, without images or weights.

    python benchmarks/imagenet_on_paper.py
    python benchmarks/imagenet_on_paper.py --images 12811670 --gpus 800

Builds the experiment's plan as `python -m harness plan` does, for placeholder images of the right number and size but
without pixels, and from ADM's configuration. Image passes, tasks and bytes are those of the plan; hours and dollars
follow from the assumptions below, which are also printed. docs/scale.md discusses the result.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.core.artifacts import ArtifactStore
from harness.core.config import parse
from harness.core.fingerprint import fingerprint
from harness.core.row_store import RowStore
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.dataset import Dataset, Images, NotDecoded, Reading, dataset_stage
from harness.data.decoding import Pixels
from harness.models.backbones.adm import ADM
from harness.models.backbones.backbone import BackbonePlan, multiplications
from harness.models.backbones.family import blocks
from harness.models.noise_processes.process import process_of
from harness.sweep import studies
from harness.sweep.experiment import Experiment
from harness.sweep.plan import Plan, make_plan

BLOCKS, TIMESTEPS, POOLS = [6, 9, 15, 19, 24, 30, 33], [10, 30, 50, 90, 150, 300, 500], [1, 2, 4, 8]
IMAGENET = 1_281_167  # training images; there are 50,000 test images in addition
EPOCHS = 28  # of the published linear probe, each with one forward pass per image
PEAK = 989e12 / 2  # multiplications per second of an H100 in bfloat16, from its data sheet
SHARE_OF_PEAK = 0.40
DOLLARS_A_GPU_HOUR = 4.0  # an H100, on demand
DOLLARS_A_GB_MONTH = 0.023  # an object store
HEAD_SECONDS_A_GIGABYTE = 20.0  # a linear head, all strengths: passes over features at memory bandwidth


class OnPaper(ADM):
    """ADM's configuration without a checkpoint."""

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Returns the plan of a checkpoint, except for its name."""
        unet, scheduler = self.unet(), self.scheduler()
        return BackbonePlan(unet, process_of(scheduler), self.path, fingerprint([unet, scheduler]))


def stand_in(experiment: Any, count: int) -> Images:
    """Returns `count` training images and 50,000 test images of 256 pixels, as a plan knows them: without pixels."""
    total = count + 50_000
    places = np.arange(total)
    dataset = Dataset(
        NotDecoded((total, 3, 256, 256)),
        places % 1000,
        tuple(map(str, range(1000))),
        {
            "train": places[: count - 10_000],
            "validation": places[count - 10_000 : count],
            "test": places[count:],
        },
        "on paper",
    )
    digests = np.random.default_rng(0).integers(0, 256, (total, 16), np.uint8)
    reading = Reading(dataset, Pixels(3, 256), places // 512, places % 512, digests, True, ())
    return Images(experiment.data, dataset, dataset_stage(experiment.data, experiment.seed, reading))


def plan(count: int, folder: Path, shard: int) -> Plan:
    """Returns the plan of the published grid over `count` training images."""
    features: dict[str, Any] = {
        "blocks": BLOCKS,
        "timesteps": TIMESTEPS,
        "pools": POOLS,
        "heads": ["linear"],
        "controls": [],
        "shard": shard,
        "caching": "cached",
        "memory_gb": 200,
        "store_gb": 1e9,
    }
    experiment = parse(Experiment, {"name": "imagenet", "features": features}, "imagenet")
    on_paper = experiment.features.model_copy(
        update={"backbone": OnPaper(path="nowhere", edition="imagenet-256-uncond")}
    )
    experiment = experiment.model_copy(update={"features": on_paper})
    storage = Storage(str(folder / "results"))
    context = Context(ArtifactStore(storage), {})
    return make_plan(
        experiment, stand_in(experiment, count), RowStore(storage, studies.tables()).tables(), context
    )


def one_pass() -> float:
    """Returns the multiplications of one pass up to the deepest requested block."""
    return multiplications(blocks(ADM(path="nowhere", edition="imagenet-256-uncond").unet())[: max(BLOCKS)])


def figures(found: Plan, gpus: int) -> SimpleNamespace:
    """Returns the hours and dollars of each part of a plan."""
    stored = sum(stage.work.stored_bytes for stage in found.stages if stage.kind == "features")
    extraction = found.image_passes * one_pass() / (PEAK * SHARE_OF_PEAK) / gpus / 3600
    largest = max(POOLS) ** 2
    read = sum(stored * pool**2 / largest for pool in POOLS)  # each probe reads features at its own pool
    heads = read / 1e9 * HEAD_SECONDS_A_GIGABYTE / (4 * gpus) / 3600  # four trials share a GPU
    return SimpleNamespace(
        extraction_hours=extraction,
        head_hours=heads,
        dollars=(extraction + heads) * gpus * DOLLARS_A_GPU_HOUR,
        storage_dollars=stored / 1e9 * DOLLARS_A_GB_MONTH,
        stored=stored,
        decoding_hours=sum(stage.work.seconds for stage in found.stages if stage.kind == "images") / 3600,
        read=read,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=IMAGENET, help="training images (1281167)")
    parser.add_argument("--gpus", type=int, default=8, help="H100s (8)")
    parser.add_argument("--shard", type=int, default=8192, help="images per artifact (8192)")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = plan(given.images, Path(folder), given.shard)
    seconds = time.monotonic() - began
    facts = figures(found, given.gpus)
    tasks = sum(stage.kind == "features" for stage in found.stages)
    artifacts = len(
        {stage.key for trial in found.trials for stage in trial.stages if stage.kind == "features"}
    )
    published = len(found.trials) * EPOCHS * (given.images + 50_000)
    shards = sum(stage.kind == "images" for stage in found.stages)
    memory = (given.images + 50_000) * 3 * 256 * 256
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = {
        "trials": f"{len(found.trials):,}",
        "image passes": f"{found.image_passes:,}",
        "published method": f"{published:,}: {published / found.image_passes:.0f} times as many",
        "tasks, artifacts": f"{tasks:,}, {artifacts:,}",
        "features": f"{facts.stored / 1e12:.1f} TB stored, {facts.read / 1e12:.1f} TB read by probes",
        "extraction": f"{facts.extraction_hours:.1f} h on {given.gpus} H100",
        "heads": f"{facts.head_hours:.1f} h on {given.gpus} H100",
        "dollars": f"{facts.dollars:,.0f} for GPUs, {facts.storage_dollars:,.0f} per month for features",
        "images decoded": f"{memory / 1e9:,.0f} GB in {shards:,} shards, {facts.decoding_hours:.1f} core hours",
        "planning": f"{seconds:.0f} s, {peak / 1e6:.1f} GB",
        "assumed": f"{one_pass() / 1e9:.0f} G multiplications per pass",
        "": f"{SHARE_OF_PEAK:.0%} of {PEAK / 1e12:.0f} T multiplications per second",
        " ": f"{DOLLARS_A_GPU_HOUR:.2f} dollars per GPU hour",
        "  ": f"{HEAD_SECONDS_A_GIGABYTE:.0f} s of a quarter of a GPU per head and gigabyte of features",
    }
    print("\n".join(f"{name:18}{text}" for name, text in lines.items()))


if __name__ == "__main__":
    main()
