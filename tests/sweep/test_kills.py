"""A sweep that is killed again and again ends with the rows of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from harness.core.rows import COMMON, TABLES, RowStore
from harness.core.rows import WHEN_AND_WHERE as VOLATILE
from harness.core.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
KILLS = 10
SEED = int(os.environ.get("HARNESS_KILL_SEED", "0"))


def start(experiment, results):
    command = [sys.executable, "-m", "harness.sweep", str(experiment), "--results", str(results), "--address", "local"]
    with results.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=experiment.parent)


def finish(process):
    try:
        return process.wait(timeout=400)
    finally:
        process.kill()


def rows(results):
    """Every table of the experiment, without the columns that say when and where a row was made."""
    tables = {name: pd.read_parquet(results / "tiny" / f"{name}.parquet") for name in TABLES}
    drop = [name for name in VOLATILE if name in COMMON or name == "fit_seconds"]
    return {name: table.drop(columns=drop, errors="ignore") for name, table in tables.items()}


def assert_equal(first, second):
    for name in TABLES:
        assert len(first[name])
        pd.testing.assert_frame_equal(first[name], second[name], check_exact=True)


def recordings(results):
    """How often each trial was recorded as done, over all runs, before duplicates are dropped."""
    store = RowStore(Storage(str(results)))
    keys = Counter()
    for name in store.storage.names("rows"):
        if name.endswith(".jsonl"):
            keys.update(outcome.key for outcome in store._read_journal(name) if not outcome.failed)
    for table in ("features", "weights"):
        for part in (results / "rows" / table).glob("*.parquet"):
            frame = pd.read_parquet(part)
            keys.update(frame.key[frame.status == "ok"])
    return keys


def descendants(pid):
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def ray_workers(pid):
    """Processes of a sweep that run tasks, trials and training."""
    found = []
    for child in descendants(pid):
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ray::") and "IDLE" not in title and "_Board" not in title:
            found.append(child)
    return found


def test_sweep_survives_kills(tiny, tmp_path):
    draw = random.Random(SEED)
    calm = tmp_path / "calm"
    assert finish(start(tiny, calm)) == 0
    expected = rows(calm)

    # The driver dies at ten random moments.
    results = tmp_path / "driver"
    for _ in range(KILLS):
        process = start(tiny, results)
        time.sleep(draw.uniform(3, 30))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finish(start(tiny, results)) == 0
    assert_equal(rows(results), expected)
    assert set(recordings(results).values()) == {1}

    # Workers die at ten random moments of one sweep, then the same command again.
    results = tmp_path / "worker"
    process = start(tiny, results)
    killed = 0
    while process.poll() is None and killed < KILLS:
        time.sleep(draw.uniform(1, 5))
        victims = ray_workers(process.pid)
        if victims:
            try:
                os.kill(draw.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
    assert finish(process) in (0, 1)
    assert killed >= 3
    assert finish(start(tiny, results)) == 0
    assert_equal(rows(results), expected)
    assert set(recordings(results).values()) == {1}
