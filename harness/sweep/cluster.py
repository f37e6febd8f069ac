"""The connection to Ray: a running cluster, or one that starts with the sweep and ends with it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any

import ray

from harness.core.errors import UserError

QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials stay in the folder where the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # rows are ours; Tune's own files would be thousands
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU of their own leave the variables alone
    "RAY_worker_maximum_startup_concurrency": "8",  # Train starts that many helpers, and Ray warns of it
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}

CRASHES = 3  # how often a stage or trial is begun again after its process or machine died


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to the cluster at `address`, or to the one running on this machine, or starts one.

    Raises `UserError` if nothing answers at `address`.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise UserError(f"no Ray cluster answers at {where}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def slots() -> int:
    """Returns how many things of one CPU each the cluster runs at a time."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def gpus() -> float:
    """Returns how many GPUs the cluster has."""
    return float(ray.cluster_resources().get("GPU", 0))


@ray.remote(num_cpus=0)
class _Board:
    """Takes progress lines from workers anywhere, for the driver to show."""

    def __init__(self) -> None:
        self._lines: Queue[tuple[str, str]] = Queue()

    def post(self, who: str, line: str) -> None:
        """Called by workers."""
        self._lines.put((who, line))

    def take(self) -> list[tuple[str, str]]:
        """Returns what was posted since the last call."""
        lines = []
        while True:
            try:
                lines.append(self._lines.get_nowait())
            except Empty:
                return lines


class Board:
    """The driver's hold on the board; calling it posts a line. Travels to workers with the workshop."""

    def __init__(self) -> None:
        board: Any = _Board  # Ray's decorator hides what it adds from type checkers
        self._actor = board.remote()

    def __call__(self, who: str, line: str) -> None:
        self._actor.post.remote(who, line)

    def take(self) -> list[tuple[str, str]]:
        """Returns the lines posted since the last call."""
        return ray.get(self._actor.take.remote())
