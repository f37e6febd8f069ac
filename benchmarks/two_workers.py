"""How much faster is a sweep on two workers than on one? Real extraction and probes, on two cores.

    python benchmarks/two_workers.py
    python benchmarks/two_workers.py --set data.name=parquet --set data.path=cifar10 --set data.size=null

Starts a Ray cluster whose head runs no trials, with one worker node of one CPU, then the same with two; runs the same
sweep on each from scratch, with `python -m harness.sweep --address`, and prints the seconds of the whole command and
their ratio. The tables of both must be equal. Needs an idle machine.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml
from ray.cluster_utils import Cluster

EXPERIMENT = {
    "data": {"name": "digits", "size": 32},
    "features": {
        "backbone": {"name": "unet", "block_out_channels": [32, 64, 64]},
        "train": {"steps": 0},
        "timesteps": [10, 50, 90, 150, 300, 500],
        "pools": [1, 2, 4],
        "heads": ["linear"],
        "controls": [],
        "shard": 512,
    },
}


def sweep(workers: int, experiment: Path, settings: list[str], results: Path) -> float:
    """Runs the experiment on a new cluster of `workers` nodes; returns the command's seconds."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(workers):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "harness.sweep", str(experiment), "--address", cluster.address]
        command += ["--results", str(results), *(word for one in settings for word in ("--set", one))]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - began
    finally:
        cluster.shutdown()


def rows(results: Path) -> pd.DataFrame:
    """Returns the table without run times and dates."""
    table = pd.read_parquet(results / "bench" / "features.parquet")
    return table.drop(columns=["seconds", "began_at", "run", "fit_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change one value")
    settings = parser.parse_args().set
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "bench.yaml"
        experiment.write_text(yaml.safe_dump(EXPERIMENT))
        seconds = {n: sweep(n, experiment, settings, Path(folder) / str(n)) for n in (2, 1)}
        tables = {n: rows(Path(folder) / str(n)) for n in seconds}
    pd.testing.assert_frame_equal(tables[1], tables[2], check_exact=True)
    print(f"{len(tables[1])} probe trials; tables equal bit for bit")
    print(
        f"one worker {seconds[1]:.0f} s, two workers {seconds[2]:.0f} s: {seconds[1] / seconds[2]:.2f} times as fast"
    )


if __name__ == "__main__":
    main()
