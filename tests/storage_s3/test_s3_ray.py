"""Checkpoints of training on S3: training that was cut off goes on where it was."""

import re
import time

import pytest
from s3_sweeps import assert_equal, finish, rows, start, write_small

from harness.cli import main
from harness.core.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS, EVERY, KEPT = 30, 5, 2
CHECKPOINT = re.compile(r"/results/(artifacts/checkpoint/backbone-\w+-[ab]/\w+)/state\.json$")
SETTINGS = [
    "weights=null",
    "features.controls=[]",
    "features.timesteps=[0]",
    f"features.train.steps={STEPS}",
    f"features.train.checkpoint_every={EVERY}",
]


def checkpoints(proxy, method):
    """Returns the checkpoints that were written to the store (PUT) or read from it (GET), in order."""
    found = [CHECKPOINT.search(request.path) for request in list(proxy.requests) if request.method == method]
    return [match[1] for match in found if match]


def test_training_whose_driver_was_killed_continues_from_its_checkpoint(proxy, storage, tmp_path):
    experiment = write_small(tmp_path)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    disk = Storage(str(tmp_path / "disk"))
    assert main(["sweep", str(experiment), "--results", disk.url, "--debug", *settings]) == 0

    with start(experiment, storage.url, "--address", "local", *settings) as driver:
        while len(checkpoints(proxy, "PUT")) < KEPT:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        driver.kill()
    assert len(checkpoints(proxy, "PUT")) < STEPS // EVERY
    assert checkpoints(proxy, "GET") == []

    status, said, complained = finish(start(experiment, storage.url, "--address", "local", *settings))
    assert status == 0, said + complained
    # Workers outlive their driver for a moment. The last checkpoint may have been under way when they died.
    found = [(one.method, CHECKPOINT.search(one.path)) for one in list(proxy.requests)]
    found = [(method, match[1]) for method, match in found if match]
    first = next(place for place, (method, _) in enumerate(found) if method == "GET")
    assert found[first][1] in [name for method, name in found[:first] if method == "PUT"][-2:]
    assert STEPS // EVERY <= len(checkpoints(proxy, "PUT")) <= STEPS // EVERY + 2
    assert_equal(rows(storage), rows(disk), "features", "correctness")
    assert storage.names("artifacts/checkpoint") == []
