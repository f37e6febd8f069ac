"""The connection to Ray: to a running cluster, or to one that lives as long as the sweep."""

import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import fsspec
import ray
import yaml
from ray._private import ray_constants
from ray._private.services import get_ray_address_from_environment
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.progress import Progress
from harness.core.stages import Stage
from harness.core.storage import Storage
from harness.data.shards import IMAGES
from harness.sweep.nodes import NodeError, on_every_node

QUIET = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trials run in the folder where the sweep was started
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # we record rows; Tune would write thousands of files
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without GPUs leave the variables alone
    "RAY_worker_maximum_startup_concurrency": "8",  # Ray warns about how many processes Train starts
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_task_oom_retries": "0",  # we retry what ran out of memory, but not forever
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # interrupts are handled in one place
    "TUNE_MAX_PENDING_TRIALS_PG": "200",  # with a searcher Tune would start one process after the other
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a retried trial is one line, a failed one a row
}

CRASHES = 3  # how often a stage or trial is retried after its process died
LOSSES = 100  # how often a stage is retried after its machine was lost, as spot machines are
SECONDS_FOR_PROGRESS = 5.0  # the driver waits no longer for what is only shown
Update = tuple[str, str, Progress | str]  # a stage's kind and key, and how far the work on it is
LONGEST_FOLDER = 40  # characters: the paths of sockets below it must not exceed 107
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` stores the cluster's configuration on the head


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to the cluster at `address`, else to the one running on this machine, else starts one.

    Raises `UserError` if no cluster responds at `address`.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    on_main = threading.current_thread() is threading.main_thread()
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        if find_cluster(address) is None:
            prepare_local()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if on_main:
            signal.signal(signal.SIGTERM, terminate)  # Ray installs its own handler
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise UserError(f"no Ray cluster responds at {where}: {error}") from None
    try:
        with redirect_stdout(sys.stderr):  # Ray reports lost machines on stdout, which is for `--json`
            yield
    finally:
        ray.shutdown()


def prepare_local() -> None:
    """Makes a cluster that `ray.init` is about to start here private, and its socket paths short enough.

    It listens on the loopback interface where Ray can, and other accounts cannot read its token. Raises `UserError`
    for a temporary folder that Ray cannot use.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False  # the address of this machine is then 127.0.0.1
    _choose_temporary_folder()
    token = Path.home() / ".ray" / "auth_token"
    mode = os.environ.get(
        "RAY_AUTH_MODE", "token"
    ).lower()  # token is Ray's default for a cluster that it starts
    if mode == "token" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        with suppress(OSError):  # it exists, or there is no home: Ray says what it needs
            token.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(file, "w") as opened:
                opened.write(secrets.token_hex(32))


def _choose_temporary_folder() -> None:
    """Uses /tmp for Ray's sockets where TMPDIR, as SLURM sets it, is too long for them."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get(name)
    if folder is None:
        return
    if len(folder) > LONGEST_FOLDER:
        if name == "RAY_TMPDIR":
            raise UserError(
                f"RAY_TMPDIR={folder}: {len(folder)} characters, but Ray's sockets leave room for {LONGEST_FOLDER}; "
                "set a shorter one, such as /tmp"
            )
        os.environ["RAY_TMPDIR"] = "/tmp"
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{name}={folder}: cannot be written: {error.strerror}; set RAY_TMPDIR=/tmp"
        ) from None


def find_cluster(address: str | None) -> str | None:
    """Returns the address of the cluster that `ray.init(address)` would connect to, None if it would start one.

    Raises `UserError` if nothing listens there: Ray itself would wait for minutes.
    """
    found = address
    if address in (None, "auto"):
        logging.getLogger("ray").setLevel(logging.ERROR)  # it would list the other clusters of this machine
        found = get_ray_address_from_environment(address, None)
    if found is None or found == "local":
        return None
    if place := re.fullmatch(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)", found):
        try:
            socket.create_connection((place[1], int(place[2])), timeout=5).close()
        except (OSError, OverflowError) as error:
            forget = "" if found == address else "; if it no longer runs, run `ray stop` or unset RAY_ADDRESS"
            raise UserError(f"no Ray cluster responds at {found}: {error}{forget}") from None
    return found


class Capacity(NamedTuple):
    """What a cluster can run at the same time."""

    slots: int  # one-CPU tasks that the present machines can run at the same time
    gpus: float  # of the present machines, or of those that the autoscaler may add


def capacity() -> Capacity:
    """Returns what the cluster can run at the moment: machines come and go, so ask again."""
    resources = ray.cluster_resources()
    return Capacity(max(1, int(resources.get("CPU", 1))), max(resources.get("GPU", 0.0), _gpus_to_come()))


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Returns the strategy that places a task or actor on the driver's machine, which the sweep needs anyway."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _gpus_to_come() -> float:
    """Returns how many GPUs the configuration of `ray up` allows, if this process runs on the head."""
    try:
        config = yaml.safe_load(Path(BOOTSTRAP).expanduser().read_text(encoding="utf-8"))
        kinds = config["available_node_types"].values()
        return float(
            sum(kind.get("max_workers", 0) * kind.get("resources", {}).get("GPU", 0) for kind in kinds)
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, RuntimeError):
        return 0.0


def check_shared(storage: Storage) -> None:
    """Raises `UserError` naming the first machine of the cluster that does not see the same results as this one."""
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


def check_data(stages: Sequence[Stage]) -> None:
    """Raises `UserError` naming the first machine that does not see the images that it may have to decode."""
    shards = [stage for stage in stages if stage.kind == IMAGES and not stage.local]
    paths = {shard.needs["dataset"].options["data"]["path"] for shard in shards}
    if len(ray.nodes()) < 2:
        return
    for path in sorted(paths - {None}):
        here = glimpse(path)
        for node, answer in on_every_node(glimpse, path):
            if answer != here:
                found = (
                    answer if isinstance(answer, NodeError) else "not the same there" if answer else "missing"
                )
                raise UserError(
                    f"data.path {path}: node {node.name} cannot read it ({found}), but every machine decodes images; "
                    "put them where all machines see them, or on an object store"
                )


def glimpse(path: str) -> str | None:
    """Returns what is directly at a path or URL: its names, or a file's size; None if it is missing."""
    try:
        file_system, place = fsspec.core.url_to_fs(path)
        if file_system.isdir(place):
            return fingerprint(
                sorted(str(name).rsplit("/", 1)[-1] for name in file_system.ls(place, detail=False))
            )
        return str(file_system.size(place))
    except Exception:  # each file system has its own errors
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
