"""Sweeps in processes of their own that tests disturb, and the tables of one that nobody disturbed."""

import functools
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import yaml
from tables import rows
from tiny import TINY

HERE = Path(__file__).parent
PATIENCE = 300  # seconds until a test gives up: machines are slow, and no test measures time
MARK = "HARNESS_TEST_MARK"
HEAD = {"num_cpus": 0, "include_dashboard": False, "dashboard_port": 0}  # of a test's own cluster
KEPT = "recorded results are kept"


def write_small(folder, **features):
    """Writes the tiny experiment with its training in the processes of the tasks, and the head of `noted`."""
    values = {name: dict(section) for name, section in TINY.items()}
    values["features"] |= {"heads": ["patient"], **features}
    for study in ("features", "weights"):
        values[study]["train"] = {**values[study]["train"], "workers": 0}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def environment(folder):
    """Returns the variables with which the processes of a test find `noted`, and a home with no token."""
    plugin = folder / "plugins" / "noted-1.dist-info"
    plugin.mkdir(parents=True, exist_ok=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: noted\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[harness.plugins]\nhead.patient = noted:Patient\n")
    (folder / "notes").mkdir(exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    paths = [
        str(HERE.parents[1]),
        str(HERE),
        str(plugin.parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "HOME": str(folder / "home"),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
        "HARNESS_TEST_NOTES": str(folder / "notes"),
    }


class Sweep:
    """`python -m harness.sweep`, or another driver, with all that it starts."""

    def __init__(
        self, folder, experiment, *options, driver=("-m", "harness.sweep"), results=None, **variables
    ):
        self.results = results or folder / "results"
        self._log = folder / f"{uuid.uuid4().hex}.log"
        self._mark = uuid.uuid4().hex
        command = [sys.executable, *driver, str(experiment), "--results", str(self.results), *options]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment(folder), MARK: self._mark, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C can be sent to all of it, as a terminal does
            )

    @property
    def log(self):
        return self._log.read_text()

    @property
    def running(self):
        return self.process.poll() is None

    def recorded(self):
        """Returns how many lines there are in the journals of runs under way."""
        return sum(_lines(path) for path in self.results.glob("rows/*/*.jsonl"))

    def until(self, condition):
        """Waits until `condition()`; fails if the sweep ends before."""
        wait_for(lambda: condition() or not self.running)
        assert self.running, self.log

    def interrupt(self):
        """Ctrl-C: a signal to all processes of the terminal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def terminate(self):
        self.process.terminate()

    def end(self):
        """Waits for the end and returns the exit status."""
        try:
            return self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.remove()
            raise AssertionError(self.log) from None

    def left_behind(self):
        """Returns what runs of all that the sweep started: process numbers with command lines."""
        return left_behind(self.process.pid, self._mark)

    def remove(self):
        """Ends all of it, for the end of a test."""
        for pid in [self.process.pid] * self.running + list(self.left_behind()):
            _kill(pid)
        self.process.wait()


def wait_for(condition, seconds=PATIENCE):
    """Waits until `condition()` holds and returns what it returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def left_behind(session, mark):
    """Returns the processes of a session, or with a mark in their environment; Ray leaves neither alone."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            status = (place / "stat").read_text().rpartition(")")[2].split()
            marked = mark.encode() in (place / "environ").read_bytes()
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if status[0] != "Z" and (marked or int(status[3]) == session):
            found[int(place.name)] = line
    return found


@contextmanager
def sweeping(*arguments, **options):
    """A sweep that is gone at the end, whatever happens."""
    sweep = Sweep(*arguments, **options)
    try:
        yield sweep
    finally:
        sweep.remove()


def _lines(path):
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@functools.cache
def _calm(base):
    folder = base / "calm"
    folder.mkdir()
    with sweeping(folder, write_small(folder), "--debug") as sweep:
        assert sweep.end() == 0, sweep.log
    return sweep.results


def undisturbed(factory):
    """Returns the results of the small experiment in one process: made once, whichever modules ask."""
    return _calm(factory.getbasetemp())


def expected(factory):
    """Returns its tables."""
    return rows(undisturbed(factory))
