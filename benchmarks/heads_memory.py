"""Peak memory of heads on stored features: in memory, and in batches.

    python benchmarks/heads_memory.py
    python benchmarks/heads_memory.py --rows 5000 20000 50000 --channels 256 --pool 4

Shards of random features whose classes differ a little are written as extraction writes them, for so many training
images and 2000 of validation and test each. Each measurement runs in a process of its own, which reads and
standardises the features, trains the head and predicts validation and test, as a trial does. Prints the peak of
anonymous memory (pages not backed by a file, which a machine can run out of), less what the process takes before, and
whether both ways gave the same weights.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import Peak
from safetensors.numpy import save_file

from harness.core.artifacts import ArtifactStore
from harness.core.stages import Code, Context, Stage, Trial, shards
from harness.core.storage import Storage
from harness.core.threads import one_thread
from harness.data.dataset import Dataset
from harness.features.memory import Setting

HEADS: dict[str, dict[str, Any]] = {
    "ridge": {"name": "ridge"},
    "linear": {"name": "linear", "strengths": [0.1]},
    "mlp": {"name": "mlp", "train": {"steps": 200}},
}
JUDGED, CLASSES, SHARD = 2000, 10, 8192
CODE = Code("synthetic", 1, "heads_memory:make_shard")


def make_shard(stage: Stage, folder: Path, context: Context) -> None:
    """Writes a shard of noise plus a small offset for each class."""
    begin, end = stage.part["images"]
    shape = stage.config["channels"], stage.config["pool"], stage.config["pool"]
    offsets = np.random.default_rng(0).normal(0, 0.05, (CLASSES, *shape)).astype(np.float32)
    draw = np.random.default_rng([1, begin])
    x = draw.standard_normal((end - begin, *shape), np.float32) + offsets[np.arange(begin, end) % CLASSES]
    save_file({"features": x}, folder / "features.safetensors", metadata={"precision": "float32"})


def trial_of(head: str, rows: int, channels: int, pool: int, memory: float) -> Trial:
    """Returns a trial of a head on synthetic features, with so many bytes of memory."""
    from harness.features.grid import PROBE

    total = rows + 2 * JUDGED
    config = {"channels": channels, "pool": pool}
    stages = [
        Stage("synthetic", CODE, config, part={"images": list(part)}) for part in shards(total, SHARD, 1)
    ]
    setting = Setting("synthetic features", rows, 2 * JUDGED, channels * pool**2, CLASSES)
    axes = {"features": "trained", "block": 1, "timestep": 0, "pool": pool}
    return Trial(
        study="features",
        table="features",
        objective="validation_accuracy",
        code=PROBE,
        axes=axes,
        config={"head": HEADS[head], "labels_per_class": None},
        seed=0,
        data="synthetic",
        data_fingerprint="",
        reads={"features": tuple(stages)},
        options={"setting": setting, "memory": memory},
    )


def measure(way: str, head: str, rows: int, channels: int, pool: int, results: str) -> dict[str, Any]:
    """Trains and judges a head, and returns megabytes, seconds and a digest of its weights."""
    from harness.features.heads.head import head_of
    from harness.features.probe import fit_head, samples_of

    total, dimensions = rows + 2 * JUDGED, channels * pool**2
    working = head_of(HEADS[head]).working_bytes(rows, dimensions, CLASSES)
    trial = trial_of(head, rows, channels, pool, working if way == "in batches" else 1e15)
    context = Context(ArtifactStore(Storage(results)), {}, ray=False, accelerators=False)
    for stage in trial.reads["features"]:
        context.ensure(stage)
    if way == "data":
        return {}
    places = np.arange(total)
    splits = dict(zip(("train", "validation", "test"), np.split(places, [rows, rows + JUDGED]), strict=True))
    images = np.broadcast_to(np.zeros((), np.uint8), (total, 1, 1, 1))
    dataset = Dataset(images, places % CLASSES, tuple(map(str, range(CLASSES))), splits)
    with one_thread():
        _warm_up(head)
        began, peak = time.monotonic(), Peak()
        samples = samples_of(trial, context, dataset)
        assert samples.reading == way, samples.reading
        fitted = fit_head(trial, samples, CLASSES, context)
        right = [float((fitted.predict(one.x) == one.labels_N).mean()) for one in samples[1:3]]
        seconds = time.monotonic() - began
    digest = hashlib.sha256()
    for value in fitted.module.state_dict().values():
        digest.update(np.ascontiguousarray(value.numpy()).tobytes())
    megabytes = (peak.stop() - peak.start) / 1e6
    return {"megabytes": megabytes, "seconds": seconds, "right": right, "weights": digest.hexdigest()}


def _warm_up(head: str) -> None:
    """Fits a head to a few numbers, so that all libraries are imported before the clock starts."""
    from harness.features.heads.head import Labelled, head_of

    x = np.random.default_rng(0).normal(size=(50, 2, 1, 1)).astype(np.float32)
    few = Labelled(x, np.arange(50) % CLASSES)
    head_of(HEADS[head]).fit(few, few, CLASSES, 0, "cpu").predict(x)


def main() -> None:
    """Prints the peak of each head, way and number of training images."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--rows", type=int, nargs="+", default=[5000, 20_000, 50_000], help="training images"
    )
    options.add_argument("--channels", type=int, default=256)
    options.add_argument("--pool", type=int, default=2)
    options.add_argument("--heads", nargs="+", choices=list(HEADS), default=list(HEADS))
    options.add_argument("--way", choices=["in memory", "in batches", "data"], help="one, printed as JSON")
    options.add_argument("--results", help="with --way: where artifacts go")
    chosen = options.parse_args()
    if chosen.way:
        sizes = chosen.rows[0], chosen.channels, chosen.pool
        print(json.dumps(measure(chosen.way, chosen.heads[0], *sizes, chosen.results)))
        return
    dimensions = chosen.channels * chosen.pool**2
    print(f"{dimensions} features of a sample; peak anonymous MB, and seconds")
    print(f"{'head':8}{'images':>8}{'features':>12}{'in memory':>20}{'in batches':>20}   weights")
    for rows in chosen.rows:
        with tempfile.TemporaryDirectory(prefix="heads-memory-") as folder:
            _child("data", chosen.heads[0], rows, chosen, folder)
            for head in chosen.heads:
                whole, read = (_child(way, head, rows, chosen, folder) for way in ("in memory", "in batches"))
                cells = "".join(
                    f"{one['megabytes']:10.0f} ({one['seconds']:5.0f} s)" for one in (whole, read)
                )
                same = "equal" if whole["weights"] == read["weights"] else "DIFFERENT"
                size = f"{4 * (rows + 2 * JUDGED) * dimensions / 1e6:,.0f} MB"
                print(f"{head:8}{rows:8,}{size:>12}{cells:>40}   {same}", flush=True)


def _child(way: str, head: str, rows: int, chosen: argparse.Namespace, folder: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--heads", head, "--rows", str(rows)]
    command += ["--channels", str(chosen.channels), "--pool", str(chosen.pool), "--results", folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
