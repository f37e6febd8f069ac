"""What do ten thousand trials cost the driver process, and what does a sweep with nothing left to do cost?

    python benchmarks/ten_thousand_trials.py
    python benchmarks/ten_thousand_trials.py --timesteps 10 --profile

A real grid on the digits: the blocks, timesteps and pools of a tiny untrained U-Net with linear probes, cheap because
there are two labelled images per class and few images per split. Prints seconds and the peak memory of the driver
alone; then the same for a second run, which finds everything done; with --profile, where the second run spends its
time. Needs an idle machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

TIMESTEPS = 257  # of 39 trials each: 13 blocks, 3 pools
DRIVER = """
import json, resource, sys, time
from harness.cli import main
began = time.monotonic()
status = main(["sweep", *sys.argv[1:]])
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"status": status, "seconds": time.monotonic() - began, "megabytes": megabytes}))
"""


def experiment(timesteps: int) -> dict:
    """Returns a grid of 39 trials per timestep."""
    return {
        "data": {"name": "digits", "labels_per_class": 2, "max_validation": 20, "max_test": 20},
        "features": {
            "backbone": {"name": "unet", "block_out_channels": [8, 16]},
            "train": {"steps": 0, "workers": 0},
            "timesteps": list(range(timesteps)),
            "pools": [1, 2, 4],
            "heads": [{"name": "linear", "strengths": [0.1]}],
            "controls": [],
        },
    }


def run(folder: Path, *options: str, profile: bool = False) -> str:
    """Runs the sweep in a separate process and returns the last line that it prints."""
    program = ["-c", DRIVER]
    if profile:
        program = ["-m", "cProfile", "-s", "cumulative", "-m", "harness.sweep"]
    command = [
        sys.executable,
        *program,
        str(folder / "grid.yaml"),
        "--results",
        str(folder / "results"),
        *options,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    lines = done.stdout.strip().splitlines()
    return "\n".join(lines[:70]) if profile else lines[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timesteps", type=int, default=TIMESTEPS)
    parser.add_argument("--profile", action="store_true", help="show where the second run's time goes")
    parser.add_argument("--debug", action="store_true", help="one process without Ray")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trials-") as name:
        folder = Path(name)
        (folder / "grid.yaml").write_text(yaml.safe_dump(experiment(chosen.timesteps)))
        how = ("--debug",) if chosen.debug else ("--address", "local")
        print("first run: ", run(folder, *how), flush=True)
        print("second run:", run(folder), flush=True)
        if chosen.profile:
            print(run(folder, profile=True))


if __name__ == "__main__":
    main()
