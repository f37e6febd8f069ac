"""Peak memory of each step of a sweep: does it grow with the number of images?

    python benchmarks/memory.py
    python benchmarks/memory.py --images 1000 10000 --size 64

Each measurement runs in a process of its own, on a folder of hard links to a few hundred JPEGs: the plan, decoding,
20 steps of training, extraction of one timestep, a ridge and a linear head on its features, and from a stream ridge
probes and one epoch of linear heads (the published protocol). The U-Net is as small as it can be. Prints the peak of
anonymous memory (pages not backed by a file, which a machine can run out of), sampled a hundred times per second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from harness.core.config import parse
from harness.core.stages import Context, Stage, run
from harness.data.config import DataConfig
from harness.data.dataset import Images
from harness.features.config import FeaturesConfig
from harness.features.study import STUDY

STEPS = ["plan", "decoding", "training", "extraction", "ridge", "linear", "streamed ridge", "streamed heads"]
WAYS = {
    "streamed ridge": {"caching": "streamed", "heads": ["ridge"]},
    "streamed heads": {"protocol": "published", "heads": ["linear"]},
}
SOURCES, CLASSES = 300, 10  # different images, classes
JUDGED = 1000  # number of validation images, and of test images


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


def make_folder(folder: Path, count: int) -> None:
    """Makes PATH/CLASS/IMAGE with `count` hard links."""
    sources = folder.parent / "sources"
    if not sources.exists():
        sources.mkdir()
        draw = np.random.default_rng(0)
        for number in range(SOURCES):
            coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8))
            coarse.resize((320, 256), Image.BICUBIC).save(sources / f"{number}.jpg")
    for number in range(count):
        below = folder / f"class{number % CLASSES}"
        below.mkdir(parents=True, exist_ok=True)
        os.link(sources / f"{number % SOURCES}.jpg", below / f"{number}.jpg")


def measure(step: str, folder: Path, size: int, shards: int | None) -> dict[str, float]:
    """Takes one step of a sweep, and returns megabytes and seconds."""
    os.environ["HARNESS_CACHE"] = str(folder.parent / f"{folder.name}.cache")
    from harness.core.artifacts import ArtifactStore
    from harness.core.storage import Storage
    from harness.features.extract import open_denoiser

    results = Storage(str(folder.parent / f"{folder.name}.results"))
    context = Context(ArtifactStore(results), {}, ray=False, accelerators=False)
    config = DataConfig(
        name="folder",
        path=str(folder),
        size=size,
        validation=0.1,
        test=0.1,
        max_validation=JUDGED,
        max_test=JUDGED,
    )
    if step == "plan":
        began, peak = time.monotonic(), Peak()
        Images.read(config, 0)
        return {"megabytes": peak.stop() / 1e6, "seconds": time.monotonic() - began}
    images = Images.read(config, 0)
    features = {
        "backbone": {
            "name": "unet",
            "block_out_channels": [4] * 6,
            "attention": [False] * 6,
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "attention_head_dim": 4,
        },
        "train": {"steps": 20, "batch": 4, "workers": 0},
        "batch": 16,
        "blocks": [1],
        "timesteps": [50],
        "pools": [2],
        "controls": [],
        "heads": ["ridge", "linear"],
        **WAYS.get(step, {}),
    }
    trials = STUDY.trials(parse(FeaturesConfig, features, "features"), images, 0)
    reads = [stage for trial in trials for stages in trial.reads.values() for stage in stages]
    jobs = list({stage.job: stage for stage in reads}.values())
    backbone = jobs[0].needs["backbone"]
    heads = [trial for trial in trials if trial.axes["head"] == step]
    if step in ("extraction", *WAYS):
        open_denoiser(backbone, context)  # and import all libraries, before the clock starts
    import torch  # noqa: F401

    began, peak = time.monotonic(), Peak()
    if step == "decoding":
        for shard in images.stage.parts:
            context.ensure(shard)
    elif step == "training":
        context.ensure(backbone)
    elif heads:
        for trial in heads:
            assert not run(trial, context, "cpu").failed
    else:
        for job in jobs[:: max(1, len(jobs) // (shards or len(jobs)))]:
            context.ensure(_one_epoch(job, len(images.dataset.labelled(None))))
    return {
        "megabytes": peak.stop() / 1e6,
        "before": peak.start / 1e6,
        "seconds": time.monotonic() - began,
    }


def _one_epoch(stage: Stage, images: int) -> Stage:
    """Returns the stage with training cut to one epoch, as memory is the same in every epoch."""
    if "train" not in stage.options:
        return stage
    steps = -(-images // stage.options["train"]["batch"])
    return replace(stage, options={**stage.options, "train": {**stage.options["train"], "steps": steps}})


def main() -> None:
    """Prints the peak for each step and number of images."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=int, nargs="+", default=[10_000, 50_000, 100_000])
    options.add_argument("--size", type=int, default=256, help="pixels")
    options.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP")
    options.add_argument(
        "--shards", type=int, help="extract so many shards, evenly spaced; then leave out heads"
    )
    options.add_argument("--step", choices=STEPS, help="take one step in this process, print JSON")
    options.add_argument("--folder", type=Path, help="with --step: the images")
    chosen = options.parse_args()
    if chosen.step:
        print(json.dumps(measure(chosen.step, chosen.folder, chosen.size, chosen.shards)))
        return
    print(f"{'':16}" + "".join(f"{count:>14,} images" for count in chosen.images) + "   (peak anonymous MB)")
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        for count in chosen.images:
            make_folder(Path(folder, str(count)), count)
        for step in chosen.steps:
            found = [
                _child(step, Path(folder, str(count)), chosen.size, chosen.shards) for count in chosen.images
            ]
            cells = "".join(f"{one['megabytes']:10.1f} ({one['seconds']:5.0f} s)  " for one in found)
            print(f"{step:16}{cells}", flush=True)


def _child(step: str, folder: Path, size: int, shards: int | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--size", str(size)]
    command += ["--shards", str(shards)] if shards else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
