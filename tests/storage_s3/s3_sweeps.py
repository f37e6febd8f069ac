"""A sweep small enough to be repeated, and its tables wherever they are."""

import io
import subprocess
import sys

import pandas as pd
import yaml

from harness.core.row_store import RowStore
from harness.core.storage import Storage
from harness.core.tables import WHEN_AND_WHERE
from harness.sweep import studies

SMALL = {
    "data": {"name": "digits", "labels_per_class": 5},
    "features": {
        "backbone": {"name": "unet", "block_out_channels": [8, 8]},
        "train": {"steps": 10, "batch": 16, "learning_rate": 0.001, "ema": 0.9},
        "blocks": [2],
        "timesteps": [0, 90],
        "pools": [1, 2],
        "heads": ["linear"],
    },
    "weights": {
        "network": {"name": "convnet", "channels": [8, 8]},
        "train": {"steps": 10, "batch": 16, "learning_rate": 0.01},
        "parameters": ["norm"],
        "checkpoints": {"learning_rate": 0.1, "batch": 16},
        "k": [4],
        "autoencoder": {"channels": [4, 4], "latent": 8, "train": {"steps": 10, "batch": 8, "workers": 0}},
        "diffusion": {"channels": [4, 8], "train": {"steps": 10, "batch": 8, "workers": 0}},
        "generate": 3,
        "sampling_steps": 5,
        "controls": [{"name": "noise", "networks": 2}],
    },
}


def write_small(folder):
    """Writes the experiment and returns its path."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def start(experiment, results, *options, code=None, **environment):
    """Starts a sweep in a process of its own; `code` is run before it there."""
    run = ["-c", f"{code}\nimport sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"]
    command = run if code else ["-m", "harness"]
    return subprocess.Popen(
        [sys.executable, *command, "sweep", str(experiment), "--results", str(results), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=experiment.parent,
        env=environment or None,
    )


def finish(process, seconds=500):
    """Waits for a process, and returns its status, what it said and what it complained of."""
    try:
        said, complained = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, said, complained


def rows(storage, experiment="small"):
    """Returns every table of an experiment, without the columns that say when and where a row was made."""
    tables = {}
    for name in studies.tables():
        table = pd.read_parquet(io.BytesIO(storage.read(f"{experiment}/{name}.parquet")))
        tables[name] = table.drop(columns=list(WHEN_AND_WHERE), errors="ignore")
    return tables


ELSEWHERE = ("similarity", "generation")  # tables of studies that the small experiment does not have


def assert_equal(found, expected, *names):
    """Checks that two sweeps measured the same, bit for bit, and each trial once."""
    for name in names or studies.tables():
        assert len(expected[name]) or name in ELSEWHERE
        pd.testing.assert_frame_equal(found[name], expected[name], check_exact=True)
    for name in {"features", "weights"} & set(names or studies.tables()):
        assert found[name].key.is_unique


def recordings(storage: Storage):
    """Returns how often each trial was recorded, over all runs, before duplicates are dropped."""
    store = RowStore(storage, studies.tables())
    runs = store._runs()
    ended = store._ended(runs)
    assert set(ended) == set(runs)
    keys = [
        key for name in ("features", "weights") for part in store._parts(ended)[name] for key in part["key"]
    ]
    return pd.Series([key.as_py() for key in keys]).value_counts()
