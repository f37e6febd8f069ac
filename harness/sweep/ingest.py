"""Decodes data sets with Ray Data: one shard of images per task, on any machine with a free CPU."""

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Any

import ray
import ray.data

from harness.core.stages import Stage
from harness.sweep.cluster import CRASHES
from harness.sweep.local_executor import made_on_worker


class Ingest:
    """Makes shards of images beside everything else. Its methods return at once and are called by one thread."""

    def __init__(self, context: Any) -> None:
        """`context` is a reference to the sweep's `Context`."""
        self._context = context
        self._ended: queue.SimpleQueue[tuple[Stage, Any]] = queue.SimpleQueue()
        self.running = 0  # how many shards are under way

    def start(self, shards: Sequence[Stage]) -> None:
        """Makes these shards, in this order as far as there are free CPUs."""
        self.running += len(shards)
        threading.Thread(target=self._run, args=(list(shards),), daemon=True, name="ingest").start()

    def ended(self) -> list[tuple[Stage, Any]]:
        """Returns the shards that have ended since the last call, with what `made` returned or an error."""
        found = []
        while not self._ended.empty():
            found.append(self._ended.get())
        self.running -= len(found)
        return found

    def _run(self, shards: list[Stage]) -> None:
        left = dict(enumerate(shards))
        try:
            for row in _dataset(shards, self._context).iter_rows():
                self._ended.put((left.pop(row["shard"]), row["result"]))
        except Exception as error:  # a task whose process died too often, a cluster that is gone
            for shard in left.values():
                self._ended.put((shard, f"{type(error).__name__}: {error}"))


def _dataset(shards: list[Stage], context: Any) -> "ray.data.Dataset":
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    settings = ray.data.DataContext.get_current()
    settings.enable_progress_bars = False
    settings.print_on_execution_start = False
    rows = [{"shard": number} for number in range(len(shards))]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _make, fn_args=(ray.put(shards), context), num_cpus=1, ray_remote_args_fn=_retried
    )


def _retried() -> dict[str, Any]:
    return {"max_retries": CRASHES}


def _make(row: dict[str, Any], shards: Any, context: Any) -> dict[str, Any]:
    """Makes one shard, and returns it with the seconds that it took or why it failed."""
    number = row["shard"]
    return {"shard": number, "result": made_on_worker(ray.get(shards)[number], ray.get(context))}
