"""A folder of as many image files as ImageNet: how long is a plan, and how fast is decoding?

    python benchmarks/image_folder.py FOLDER
    python benchmarks/image_folder.py FOLDER --images 128000 --decoded 6000

Makes FOLDER if it does not exist: train/CLASS and val/CLASS with hard links to 2,000 JPEGs of 500x375 pixels. Prints

- the first plan and a second one, in processes of their own, with the largest process's peak memory (resident);
- images decoded to 256 pixels per second by one and by two processes, ours through shards of a data set and theirs
  through `datasets.load_dataset("imagefolder")` with Pillow doing the same resizing and cropping.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SOURCES, CLASSES, VALIDATION = 2000, 1000, 50  # different images, classes, validation images of a class
SIZE = 256


def make(folder: Path, images: int) -> None:
    """Makes the folder, with hard links, so that it takes the disk space of the different images alone."""
    sources = folder / "sources"
    sources.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(SOURCES):
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), np.uint8)).resize(
            (500, 375), Image.BICUBIC
        )
        grain = draw.normal(0, 12, (375, 500, 3))
        picture = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(sources / f"{number}.jpg", quality=85)
    each = images // CLASSES
    for place in range(CLASSES):
        for split, first, last in (("val", 0, VALIDATION), ("train", VALIDATION, each)):
            below = folder / "images" / split / f"n{place:08d}"
            below.mkdir(parents=True)
            for number in range(first, last):
                source = sources / f"{(place * each + number) % SOURCES}.jpg"
                os.link(source, below / f"n{place:08d}_{number}.JPEG")


def plan(folder: Path, cache: str) -> tuple[float, float]:
    """Returns seconds and the peak memory in GB of the largest process of a plan."""
    began = time.monotonic()
    subprocess.run([sys.executable, __file__, str(folder), "--plan", cache], check=True)
    seconds = time.monotonic() - began
    return seconds, json.loads(Path(cache, "peak.json").read_text())


def plan_here(folder: Path, cache: str) -> None:
    """Plans in this process, and writes the peak memory of the largest process."""
    os.environ["HARNESS_CACHE"] = cache
    from harness.data.config import DataConfig
    from harness.data.dataset import Images

    images = Images.read(DataConfig(name="folder", path=str(folder / "images"), size=SIZE), 0)
    print("\n".join(images.stage.options["about"]), flush=True)
    kilobytes = max(_peak(number) for number in [os.getpid(), *_below(os.getpid())])
    Path(cache, "peak.json").write_text(json.dumps(kilobytes / 1e6))


def _below(process: int) -> list[int]:
    """Returns the processes that a process has started, and those that they have."""
    found = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        for number in map(int, file.read_text().split()):
            found += [number, *_below(number)]
    return found


def _peak(process: int) -> int:
    """Returns the peak resident memory of a process in kilobytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def ours(folder: Path, cache: str, count: int, processes: int) -> float:
    """Returns images per second, decoded to shards by this many processes."""
    os.environ["HARNESS_CACHE"] = cache
    from joblib import Parallel, delayed

    from harness.core.artifacts import ArtifactStore
    from harness.core.stages import Context
    from harness.core.storage import Storage
    from harness.data import shards
    from harness.data.config import DataConfig
    from harness.data.dataset import Images

    shards.SHARD_BYTES = count // 4 * 3 * SIZE**2
    stage = Images.read(DataConfig(name="folder", path=str(folder / "images"), size=SIZE), 0).stage
    with tempfile.TemporaryDirectory(prefix="images-") as results:
        context = Context(ArtifactStore(Storage(results)), {}, ray=False)
        context.ensure(stage)
        Parallel(processes)(delayed(abs)(1) for _ in range(processes))  # start them, and
        Parallel(processes)(
            delayed(context.ensure)(stage.parts[4 + n]) for n in range(processes)
        )  # list the folder
        began = time.monotonic()
        Parallel(processes)(delayed(context.ensure)(shard) for shard in stage.parts[:4])
        return count / (time.monotonic() - began)


def theirs(folder: Path, count: int, processes: int) -> float:
    """Returns images per second of `datasets` and Pillow, resized and cropped as ours, written to its cache."""
    import datasets

    datasets.disable_progress_bars()
    files = sorted(str(one) for one in (folder / "images" / "train").glob("n0000000[0-9]/*"))[:count]
    with tempfile.TemporaryDirectory(prefix="theirs-") as cache:
        read = datasets.load_dataset(
            "imagefolder", data_files={"train": files}, split="train", cache_dir=cache
        )
        began = time.monotonic()
        read.map(_resized, num_proc=processes if processes > 1 else None, remove_columns=["image"])
        return len(files) / (time.monotonic() - began)


def _resized(example: dict) -> dict:
    picture = example["image"].convert("RGB")
    scale = SIZE / min(picture.size)
    width, height = (max(SIZE, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return {"pixels": np.asarray(picture.crop((left, top, left + SIZE, top + SIZE))).tobytes()}


def main() -> None:
    """Prints the figures."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    options.add_argument("--images", type=int, default=1_280_000)
    options.add_argument("--decoded", type=int, default=4000)
    options.add_argument("--plan", metavar="CACHE", help="plan in this process")
    chosen = options.parse_args()
    if chosen.plan:
        plan_here(chosen.folder, chosen.plan)
        return
    if not chosen.folder.exists():
        make(chosen.folder, chosen.images)
    with tempfile.TemporaryDirectory(prefix="index-") as cache:
        for what in ("first plan", "second plan"):
            seconds, gigabytes = plan(chosen.folder, cache)
            print(f"{what}: {seconds:.1f} s, {gigabytes:.2f} GB in the largest process", flush=True)
        rates = {}
        for processes in (1, 2):
            rates["ours", processes] = ours(chosen.folder, cache, chosen.decoded, processes)
            rates["theirs", processes] = theirs(chosen.folder, chosen.decoded, processes)
            print(
                f"{processes} processes: {rates['ours', processes]:.0f} images per second, "
                f"datasets and Pillow {rates['theirs', processes]:.0f}",
                flush=True,
            )
    print(f"two processes over one: {rates['ours', 2] / rates['ours', 1]:.2f}")
    ratios = [f"{rates['ours', n] / rates['theirs', n]:.2f}" for n in (1, 2)]
    print(f"ours over theirs: {ratios[0]} with one process, {ratios[1]} with two")


if __name__ == "__main__":
    main()
