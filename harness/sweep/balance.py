"""How stages and trials share the CPUs and GPUs of a cluster, so that neither waits for the end of the other.

A stage takes a CPU, and where there are GPUs, most of one; a trial takes a CPU and the rest of the GPU. Trials run in
processes that are kept for the next trial, and hold what they take until no trial is ready. So while there are
stages to make, there are only as many of these processes as leave half of the CPUs, and room on each GPU, to stages.
A single CPU goes to trials while any is ready, and to stages otherwise.
"""

from typing import NamedTuple

from harness.sweep.cluster import Capacity

AHEAD = 2  # times as many tasks as can run: an autoscaler sees those that wait, and doubles the cluster


class Room(NamedTuple):
    """How many tasks may be handed to Ray, those that run included."""

    stages: int
    trials: int


def room(capacity: Capacity, stages: int) -> Room:
    """Returns how many stages and trials Ray may have, if `stages` run or could."""
    slots = capacity.slots
    gpus = max(1, int(capacity.gpus)) if capacity.gpus > 0 else slots
    if not stages:
        return Room(0, AHEAD * slots)
    return Room(AHEAD * min(slots, gpus), min(slots - min(stages, slots // 2), gpus))
