"""A head, stages and trials that note where and when they ran, and that wait, starve or die when told to.

Told by files in the folder that HARNESS_TEST_NOTES names, so that keys, and rows, are those of work left alone.
"""

import json
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Literal

import numpy as np

from harness.features.heads.linear import Linear

GIGABYTE = 2**30
PIXELS = 64  # dimensions of the digits


def folder():
    return Path(os.environ["HARNESS_TEST_NOTES"])


def told(what):
    """Returns the content of a file in the folder, or None."""
    try:
        return (folder() / what).read_text()
    except (FileNotFoundError, KeyError):
        return None


def wait():
    time.sleep(float(told("pause") or 0))
    while told("gate") is not None:
        time.sleep(0.05)


class Noting:
    """Writes a note when work begins, and another when it has ended."""

    def __init__(self, what):
        import ray

        self.facts = {"what": what, "pid": os.getpid(), "id": uuid.uuid4().hex}
        if ray.is_initialized():
            context = ray.get_runtime_context()
            self.facts["node"] = context.get_node_id()
            self.facts["gpus"] = context.get_accelerator_ids().get("GPU", [])
            self.facts["share"] = context.get_assigned_resources().get("GPU", 0)

    def _write(self, event):
        name = f"{self.facts['id']}-{event}"
        (folder() / f"{name}.part").write_text(
            json.dumps({**self.facts, "event": event, "at": time.monotonic()})
        )
        (folder() / f"{name}.part").rename(folder() / f"{name}.json")

    def __enter__(self):
        self._write("begin")

    def __exit__(self, *exception):
        self._write("end")


def notes(place):
    """Returns all notes in `place`, in the order of time."""
    found = [json.loads(path.read_text()) for path in Path(place).glob("*.json")]
    return sorted(found, key=lambda note: note["at"])


class Patient(Linear):
    """The linear probe, with what tests do to it."""

    name: Literal["patient"] = "patient"

    def fit(self, train, validation, classes, seed, device):
        if "HARNESS_TEST_NOTES" not in os.environ:
            return super().fit(train, validation, classes, seed, device)
        with Noting("trial"):
            wait()
            if train.x_ND.shape[1] == PIXELS and not train.x_ND[:, 0].any():  # their first pixel is empty
                suffer(told("pixels"))
            return super().fit(train, validation, classes, seed, device)


def suffer(how):
    if how == "raise":
        raise MemoryError("cannot have that much")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "allocate":
        held = []
        while len(held) < 9:  # more than the test allows, less than would hurt the machine
            held.append(np.ones(GIGABYTE // 8))
            time.sleep(0.5)


def make(stage, place, context):
    """Makes a stage of `stages`: a note, a wait and a file."""
    with Noting("stage"):
        wait()
        (place / "out").write_text(stage.key)


def run(trial, context):
    """Runs a trial of `trials`."""
    with Noting("trial"):
        wait()
    return {"features": [{"block": trial.axes["block"], "validation_accuracy": 0.5}]}
