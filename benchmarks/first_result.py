"""How long is it until a sweep's first result, and until its last?

    python benchmarks/first_result.py                                   # the quickstart, on a Ray cluster of its own
    python benchmarks/first_result.py --debug                           # the same in one process
    python benchmarks/first_result.py mine --set 'features.heads=[linear]'

Runs `python -m harness.sweep` in an empty folder and watches its journal; prints the seconds from the start of the
command to the first recorded trial of each table, and to the end. Needs an idle machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.1


def look(results: Path, first: dict[str, float], began: float) -> None:
    """Notes in `first` when a table's first row was seen."""
    for journal in results.glob("rows/*/*.jsonl"):
        if journal.stem not in first and journal.stat().st_size:
            first[journal.stem] = time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?", default="quickstart")
    parser.add_argument("--debug", action="store_true", help="run in one process without Ray")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change one value")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        command = [
            sys.executable,
            "-m",
            "harness.sweep",
            chosen.experiment,
            "--results",
            str(results),
            "--json",
        ]
        command += ["--debug"] if chosen.debug else ["--address", "local"]
        command += [word for one in chosen.set for word in ("--set", one)]
        first: dict[str, float] = {}
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sweep:
            while sweep.poll() is None:
                look(results, first, began)
                time.sleep(SECONDS_BETWEEN_LOOKS)
            seconds = time.monotonic() - began
            assert sweep.stdout is not None
            facts = json.loads(sweep.stdout.read())
    for table, when in sorted(first.items(), key=lambda pair: pair[1]):
        print(f"first row of {table}: after {when:.0f} s")
    print(f"all {facts['done_now']} trials: after {seconds:.0f} s; {facts['failed_now']} failed")


if __name__ == "__main__":
    main()
