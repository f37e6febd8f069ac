"""Peak memory of extraction and of streaming: does it grow with the number of images?

    python benchmarks/memory.py
    python benchmarks/memory.py --images 1000 10000 50000 --size 8

Each measurement runs in a separate process that reads one timestep of a tiny untrained U-Net: extraction shard by
shard as in a sweep, ridge probes from streamed sums, and linear heads of the published protocol (one epoch of steps).
Images are random, in a memory-mapped file like the data sets of workers. Prints the peak of anonymous memory (pages
not backed by a file, which a machine can run out of), sampled a hundred times per second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from harness.core.config import parse
from harness.core.stages import Code, Context, Stage
from harness.data.config import DataConfig
from harness.data.dataset import Dataset, Images, open_dataset
from harness.features.config import FeaturesConfig
from harness.features.study import STUDY

WAYS = {
    "extraction": {"caching": "cached", "heads": ["ridge"]},
    "streamed ridge": {"caching": "streamed", "heads": ["ridge"]},
    "streamed heads": {"protocol": "published", "heads": ["linear"]},
}
JUDGED = 200  # number of validation images, and of test images


class Peak:
    """Samples this process's anonymous memory."""

    def __init__(self) -> None:
        self.start = self.highest = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.highest = max(self.highest, anonymous())

    def stop(self) -> int:
        """Returns the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self.highest


def anonymous() -> int:
    """Returns the bytes of this process's memory that are not backed by a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: this benchmark needs Linux")


def make_dataset(stage: Stage, folder: Path, context: Context) -> None:
    """Writes random images with random labels, part by part."""
    count, size = stage.config["images"], stage.config["size"]
    draw = np.random.default_rng(0)
    images = np.memmap(folder / "images.raw", np.uint8, "w+", shape=(count, 3, size, size))
    for begin in range(0, count, 1000):
        part = images[begin : begin + 1000]
        part[:] = draw.integers(0, 256, part.shape, np.uint8)
    edges = np.cumsum([count - 2 * JUDGED, JUDGED, JUDGED])
    splits = np.split(np.arange(count), edges[:-1])
    labels = np.arange(count) % 10
    names = ("train", "validation", "test")
    save_file(
        {"images": images, "labels": labels, **dict(zip(names, splits, strict=True))},
        folder / "images.safetensors",
    )
    (folder / "images.raw").unlink()
    (folder / "classes.json").write_text(json.dumps([str(number) for number in range(10)]))


def measure(way: str, images: int, size: int, results: str) -> dict[str, float]:
    """Makes all features, or heads, of one timestep, and returns megabytes and seconds."""
    from harness.core.artifacts import ArtifactStore
    from harness.core.storage import Storage
    from harness.features.extract import open_denoiser

    context = Context(ArtifactStore(Storage(results)), {}, ray=False, accelerators=False)
    stage = Stage("dataset", Code("dataset", 1, "memory:make_dataset"), {"images": images, "size": size})
    dataset = open_dataset(stage, context)
    if way == "data":
        return {}
    stages = stages_of(way, dataset, stage)
    open_denoiser(stages[0].needs["backbone"], context)  # and import all libraries, before the clock starts
    began, peak = time.monotonic(), Peak()
    for one in stages:
        context.ensure(one)
    return {
        "megabytes": peak.stop() / 1e6,
        "before": peak.start / 1e6,
        "seconds": time.monotonic() - began,
    }


def stages_of(way: str, dataset: Dataset, stage: Stage) -> list[Stage]:
    """Returns the stages of one timestep, one per job."""
    features = {
        "backbone": {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1},
        "train": {"steps": 0, "workers": 0},
        "blocks": [2, 5, 7],
        "timesteps": [50],
        "pools": [1, 2],
        "controls": [],
        "shard": 1024,
        **WAYS[way],
    }
    config = parse(FeaturesConfig, features, "features")
    trials = STUDY.trials(config, Images(DataConfig(), dataset, stage), 0)
    jobs = {one.job: one for trial in trials for stages in trial.reads.values() for one in stages}
    return [_one_epoch(one, len(dataset.labelled(None))) for one in jobs.values()]


def _one_epoch(stage: Stage, images: int) -> Stage:
    """Returns the stage with training cut to one epoch, as memory is the same in every epoch."""
    if "train" not in stage.options:
        return stage
    steps = -(-images // stage.options["train"]["batch"])
    return replace(stage, options={**stage.options, "train": {**stage.options["train"], "steps": steps}})


def main() -> None:
    """Prints the peak for each method and number of images."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 50_000])
    options.add_argument("--size", type=int, default=8, help="pixels")
    options.add_argument("--way", choices=[*WAYS, "data"], help="measure one in this process, print JSON")
    options.add_argument("--results", help="with --way: where artifacts go")
    chosen = options.parse_args()
    if chosen.way:
        print(json.dumps(measure(chosen.way, chosen.images[0], chosen.size, chosen.results)))
        return
    print(f"{'':16}" + "".join(f"{count:>14,} images" for count in chosen.images) + "   (peak anonymous MB)")
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        for way in ["data", *WAYS]:
            found = [_child(way, count, chosen.size, folder) for count in chosen.images]
            if way != "data":
                cells = "".join(f"{one['megabytes']:10.1f} ({one['seconds']:5.0f} s)  " for one in found)
                print(f"{way:16}{cells}", flush=True)


def _child(way: str, images: int, size: int, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--images", str(images), "--size", str(size)]
    done = subprocess.run(
        [*command, "--results", f"{folder}/{images}"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
