"""What does a sweep over five K cost compared with the largest K alone, excluding training of the generators?

    python benchmarks/five_k.py                    # a ConvNet on digits: about four minutes
    python benchmarks/five_k.py EXPERIMENT --set weights.k=[1,10,50,200,500]

Runs the experiment from scratch with its largest K, then with all of its K, in one process each, and adds up the
recorded seconds of all stages and trials except those of autoencoders and denoisers. All K share one set of
checkpoints and its predictions.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import yaml

LEARNT = ("autoencoder", "denoiser")
EXPERIMENT = {
    "data": {"name": "digits"},
    "weights": {
        "network": {"name": "convnet", "channels": [16, 32, 32]},
        "train": {"epochs": 30, "batch": 64, "learning_rate": 0.01, "schedule": "cosine"},
        "parameters": ["norm2", "norm3"],
        "checkpoints": {"every": 1, "unit": "epoch", "learning_rate": 0.02, "batch": 64},
        "k": [10, 50, 100, 150, 200],
        "autoencoder": {"channels": [16, 32, 32, 16], "latent": 32, "train": {"steps": 300, "workers": 0}},
        "diffusion": {"channels": [16, 32, 64], "train": {"steps": 300, "workers": 0}},
        "generate": 100,
        "sampling_steps": 100,
        "gate": None,
    },
}


def seconds(experiment: Path, settings: list[str]) -> Counter[str]:
    """Runs the experiment from scratch; returns the seconds of its stages by kind, and of its trials."""
    with tempfile.TemporaryDirectory(prefix="five-k-") as results:
        command = [sys.executable, "-m", "harness.sweep", str(experiment), "--debug", "--results", results]
        command += [word for one in settings for word in ("--set", one)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spent: Counter[str] = Counter()
        for path in Path(results, "artifacts").glob("*/*/manifest.json"):
            about = json.loads(path.read_text())
            spent[about["kind"]] += about["seconds"]
        (table,) = Path(results).glob("*/weights.parquet")
        spent["trials"] += pd.read_parquet(table)["seconds"].sum()
        return spent


def main() -> None:
    """Prints the seconds by kind of stage for both sweeps, then the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(chosen.experiment or Path(folder, "five_k.yaml"))
        if chosen.experiment is None:
            path.write_text(yaml.safe_dump(EXPERIMENT))
        given = [one for one in chosen.set if one.startswith("weights.k=")]
        ks = (
            yaml.safe_load(given[-1].partition("=")[2])
            if given
            else yaml.safe_load(path.read_text())["weights"]["k"]
        )
        largest = seconds(path, [*chosen.set, f"weights.k=[{max(ks)}]"])
        five = seconds(path, [*chosen.set, f"weights.checkpoints.size={max(ks)}"])
    for kind in sorted(five, key=lambda one: -five[one]):
        note = "  (excluded)" if kind in LEARNT else ""
        print(f"{kind:16} {largest[kind]:8.1f} s {five[kind]:8.1f} s{note}")
    one, all_of_them = (
        sum(value for kind, value in some.items() if kind not in LEARNT) for some in (largest, five)
    )
    print(f"K = {ks} costs {all_of_them / one:.2f} times as much as K = {max(ks)} alone")


if __name__ == "__main__":
    main()
