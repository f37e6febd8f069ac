"""Makes the stages of a schedule as Ray tasks, beside the trials that Ray Tune runs."""

import time
from collections import Counter, deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_thread
from threading import Thread
from typing import TYPE_CHECKING, Any

import ray

from harness.core.errors import BadData, FullDisk
from harness.core.stages import STAGE_GPU, Context, Stage
from harness.data.shards import IMAGES
from harness.sweep.balance import Room, room
from harness.sweep.cluster import CRASHES, LOSSES, Capacity, ProgressQueue, beside_driver, capacity
from harness.sweep.display import Display
from harness.sweep.local_executor import made, made_on_worker, note
from harness.sweep.schedule import Schedule

if TYPE_CHECKING:
    from harness.sweep.ingest import Ingest

SECONDS_BETWEEN_LOOKS = 0.1  # at tasks
SECONDS_BETWEEN_COUNTS = 1.0  # at the cluster's CPUs, and at what tasks report


class StageTasks:
    """Makes stages in the order of a schedule. All its methods return soon and are called by one thread."""

    def __init__(
        self, schedule: Schedule, context: Context, display: Display, progress: ProgressQueue
    ) -> None:
        self._schedule, self._context, self._display, self._progress = schedule, context, display, progress
        self._shared = ray.put(context)
        self._lost: Counter[tuple[str, bool]] = Counter()  # by job, and by whether its machine was lost
        self._running: dict[Any, Stage] = {}
        self._ingest: Ingest | None = None
        self._local: deque[Stage] = deque()  # stages that read this machine's files: made here, one by one
        self._here: tuple[Future[float | str | BadData], Stage] | None = None
        self._looked = self._counted = 0.0
        self._capacity = Capacity(1, 0.0)
        self.step()

    @property
    def room(self) -> Room:
        """How many stages and trials Ray may have at the moment."""
        shards = 0 if self._ingest is None else self._ingest.running
        return room(self._capacity, len(self._running) + shards + self._schedule.stages_ready)

    def wait(self) -> None:
        """Waits for a stage to end, but not long, and takes a step."""
        if self._running:
            ray.wait(list(self._running), timeout=SECONDS_BETWEEN_COUNTS / 2)
        elif self._here is not None:
            wait_for_thread([self._here[0]], timeout=SECONDS_BETWEEN_COUNTS / 2)
        elif self._ingest is not None and self._ingest.running:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._looked = 0.0
        self.step()

    def step(self, hold: bool = False) -> None:
        """Tells the schedule what has ended since the last step, and submits what can be made now.

        With `hold` nothing is submitted, since a trial waits for a CPU: Ray gives one to queued tasks first. Raises
        `FullDisk`.
        """
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        running = list(self._running)
        ended = ray.wait(running, num_returns=len(running), timeout=0)[0] if running else []
        if ended or now - self._counted >= SECONDS_BETWEEN_COUNTS:
            self._counted = now
            self._capacity = capacity()
            for update in self._progress.take():  # before the end of what they are about
                self._display.working(*update)
        for reference in ended:
            self._end(reference)
        for shard, result in self._ingest.ended() if self._ingest is not None else ():
            self._settle(shard, result)
        if self._here is not None and self._here[0].done():
            future, stage = self._here
            self._here = None
            note(stage, future.result(), self._schedule, self._display)
        if not hold:
            self._submit()

    def _submit(self) -> None:
        shards = []
        while len(self._running) < self.room.stages:
            stage = self._schedule.next_stage()
            if stage is None:
                break
            if stage.local:
                self._local.append(stage)
            elif stage.kind == IMAGES:
                shards.append(stage)
            else:
                self._running[self._task(stage)] = stage
        if shards:
            self._ingested().start(shards)
        if self._local and self._here is None:
            stage = self._local.popleft()
            self._here = (_in_thread(stage, self._context), stage)

    def _ingested(self) -> "Ingest":
        """Returns what makes shards of images. Small data sets need none: importing Ray Data takes a while."""
        from harness.sweep.ingest import Ingest

        if self._ingest is None:
            self._ingest = Ingest(self._shared)
        return self._ingest

    def _task(self, stage: Stage) -> Any:
        """Submits a task for `stage`. One that only waits for Ray Train's workers takes no CPU from them."""
        if stage.trains:
            # If the machine of a Train controller is lost, its placement group stays and blocks the next controller.
            place: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": beside_driver()}
        else:
            gpus = self._context.accelerators and self._capacity.gpus > 0
            place = {"num_cpus": 1, "num_gpus": STAGE_GPU if gpus else 0}
        return _make.options(name=stage.short_name, max_retries=0, **place).remote(stage, self._shared)

    def _end(self, reference: Any) -> None:
        """Takes the result of a task, or submits it again if its process or machine was lost."""
        stage = self._running.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayError as failure:
            machine = isinstance(failure, ray.exceptions.NodeDiedError)
            self._lost[stage.job, machine] += 1
            if self._lost[stage.job, machine] <= (LOSSES if machine else CRASHES):
                what = "its machine was lost" if machine else "its process died"
                self._display.say(f"{stage.short_name}: {what}; retrying")
                self._schedule.again(stage)
                return
            result = f"{type(failure).__name__}: {failure}"
        self._settle(stage, result)

    def _settle(self, stage: Stage, result: Any) -> None:
        if isinstance(result, FullDisk):
            raise result
        note(stage, result, self._schedule, self._display)


def _in_thread(stage: Stage, context: Context) -> "Future[float | str | BadData]":
    """Makes a stage in a thread that does not keep the process from ending."""
    future: Future[float | str | BadData] = Future()

    def work() -> None:
        try:
            future.set_result(made(stage, context))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


@ray.remote
def _make(stage: Stage, context: Context) -> float | str | BadData | FullDisk:
    return made_on_worker(stage, context)
