"""The connection to Ray: a running cluster, or one that starts with the sweep and ends with it."""

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import ray
import yaml
from ray._private.services import get_ray_address_from_environment
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core.errors import UserError
from harness.core.progress import Progress
from harness.core.storage import Storage
from harness.sweep.nodes import on_every_node

QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials stay in the folder where the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # rows are ours; Tune's own files would be thousands
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU of their own leave the variables alone
    "RAY_worker_maximum_startup_concurrency": "8",  # Train starts that many helpers, and Ray warns of it
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_task_oom_retries": "0",  # what a machine has no memory for is begun again by us, and not for ever
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # interrupts end the sweep in one way
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a trial begun again is one line, and one that failed a row
}

CRASHES = 3  # how often a stage or trial is begun again after its process died
LOSSES = 100  # how often a stage is begun again after its machine was lost, as spot machines are
SECONDS_FOR_PROGRESS = 5.0  # the driver waits no longer for what is only shown
Update = tuple[str, str, Progress | str]  # a stage's kind and key, and how far the work on it is
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` leaves, on the head, which machines there may be


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to the cluster at `address`, or to the one running on this machine, or starts one.

    Raises `UserError` if nothing answers at `address`.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    on_main = threading.current_thread() is threading.main_thread()
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        find_cluster(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if on_main:
            signal.signal(signal.SIGTERM, terminate)  # Ray puts its own in place
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise UserError(f"no Ray cluster answers at {where}: {error}") from None
    try:
        with redirect_stdout(sys.stderr):  # where Ray prints of lost machines, beside what `--json` prints
            yield
    finally:
        ray.shutdown()


def find_cluster(address: str | None) -> str | None:
    """Returns where the cluster is that `ray.init(address)` would connect to, None where it would start one.

    Raises `UserError` if nothing listens there, for which Ray itself would wait minutes.
    """
    found = address
    if address in (None, "auto"):
        logging.getLogger("ray").setLevel(logging.ERROR)  # it would name the other clusters of this machine
        found = get_ray_address_from_environment(address, None)
    if found is None or found == "local":
        return None
    if place := re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", found):
        try:
            socket.create_connection((place[1], int(place[2])), timeout=5).close()
        except (OSError, OverflowError) as error:
            forget = (
                "" if found == address else "; if it is gone, `ray stop` or unsetting RAY_ADDRESS forgets it"
            )
            raise UserError(f"no Ray cluster answers at {found}: {error}{forget}") from None
    return found


class Capacity(NamedTuple):
    """What a cluster can run at a time."""

    slots: int  # things of one CPU each that the machines there now run at a time
    gpus: float  # of the machines there now, or of those that the autoscaler may add


def capacity() -> Capacity:
    """Returns what the cluster can run at this moment: machines come and go, so ask again."""
    resources = ray.cluster_resources()
    return Capacity(max(1, int(resources.get("CPU", 1))), max(resources.get("GPU", 0.0), _gpus_to_come()))


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Returns how a task or actor is kept on the driver's machine, whose end is the sweep's end anyway."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _gpus_to_come() -> float:
    """Returns how many GPUs `ray up`'s file allows on this cluster, where this process runs on its head."""
    try:
        config = yaml.safe_load(Path(BOOTSTRAP).expanduser().read_text(encoding="utf-8"))
        kinds = config["available_node_types"].values()
        return float(
            sum(kind.get("max_workers", 0) * kind.get("resources", {}).get("GPU", 0) for kind in kinds)
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, RuntimeError):
        return 0.0


def check_shared(storage: Storage) -> None:
    """Raises `UserError` naming the first machine of the cluster that does not see the results as this one does."""
    if len(ray.nodes()) < 2:
        return
    for node, answer in on_every_node(_unseen, storage):
        if answer is not None:
            raise UserError(f"node {node.name}: {answer}")


def _unseen(storage: Storage) -> str | None:
    try:
        storage.check_seen()
    except UserError as error:
        return str(error)
    return None


@ray.remote(num_cpus=0)
class _ProgressQueue:
    """Holds the progress that workers anywhere report, until the driver shows it."""

    def __init__(self) -> None:
        self._updates: Queue[Update] = Queue()

    def put(self, update: Update) -> None:
        """Called by workers."""
        self._updates.put(update)

    def take(self) -> list[Update]:
        """Returns what was put since the last call."""
        updates = []
        while True:
            try:
                updates.append(self._updates.get_nowait())
            except Empty:
                return updates


class ProgressQueue:
    """The handle of the queue; calling it puts an update. Sent to workers with the context."""

    def __init__(self) -> None:
        queue: Any = _ProgressQueue  # Ray's decorator hides what it adds from type checkers
        # If Ray kills the actor, as it does when memory runs out, it is restarted.
        self._actor = queue.options(scheduling_strategy=beside_driver(), max_restarts=-1).remote()

    def __call__(self, kind: str, key: str, update: Progress | str) -> None:
        self._actor.put.remote((kind, key, update))

    def take(self) -> list[Update]:
        """Returns the updates put since the last call; none while the actor restarts."""
        try:
            return ray.get(self._actor.take.remote(), timeout=SECONDS_FOR_PROGRESS)
        except ray.exceptions.RayError:
            return []
