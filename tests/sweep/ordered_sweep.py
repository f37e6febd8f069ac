"""Runs a scenario whose stages and trials wait for each other: ordered_sweep.py NAME --results URL [--address A]

Prints a line for each outcome, and FullDisk if that ends the sweep.
"""

import argparse
import errno
import os
import time
from pathlib import Path

from harness.core.artifacts import ArtifactStore
from harness.core.errors import FullDisk
from harness.core.row_store import RowStore
from harness.core.stages import Code, Context, Stage, Trial
from harness.core.storage import Storage
from harness.sweep import studies
from harness.sweep.local_executor import LocalExecutor
from harness.sweep.plan import missing_stages
from harness.sweep.schedule import Schedule

MAKE, RUN = Code("ordered stage", 1, "ordered_sweep:make"), Code("ordered trial", 1, "ordered_sweep:run")


class Silent:
    """A display that shows nothing."""

    def __getattr__(self, name):
        return lambda *arguments: None


def stage(name, does="", **more):
    return Stage("ordered", MAKE, {"name": name, "does": does}, **more)


def trial(name, *reads, does=""):
    values = {"seed": 0, "data": "d", "data_fingerprint": "f", "config": {"does": does}}
    return Trial(
        "features",
        "features",
        "validation_accuracy",
        RUN,
        {"block_name": name},
        **values,
        reads={"all": reads},
    )


def begun(name):
    return Path(os.environ["HARNESS_TEST_NOTES"]) / f"trial {name}"


def make(made, folder, context):
    does, _, of = made.config["does"].partition(" ")
    while does in ("await", "fill") and not begun(of).exists():
        time.sleep(0.05)
    if does == "fail":
        raise RuntimeError("cannot be made")
    if does == "fill":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if does == "train" and context.ray:
        import ray

        ray.get(ray.remote(num_cpus=1)(lambda: None).remote())  # as Ray Train's workers do
    (folder / "out").write_text(made.key)


def run(one, context):
    for made in one.reads["all"]:
        assert context.has(made)
    begun(one.axes["block_name"]).touch()
    while one.config["does"] == "stay":
        time.sleep(0.05)
    return {"features": [{"validation_accuracy": 0.5}]}


def apart():
    """A stage that is only made when a trial that does not read it has run."""
    return [trial("early", stage("one")), trial("late", stage("two", "await early"))]


def failing():
    """A stage that fails, one that needs it, and others."""
    bad = stage("bad", "fail")
    return [
        trial("reads it", bad, stage("good")),
        trial("reads what needs it", stage("above", needs={"bad": bad})),
        trial("reads another", stage("good")),
    ]


def full(does="stay"):
    """A disk that gets full while a trial runs, which never ends by itself."""
    return [trial("early", stage("one"), does=does), trial("late", stage("two", "fill early"))]


def full_alone():
    """The same with a trial that ends."""
    return full("")


def chain():
    """Trainings, stages and trials that need each other."""
    first = stage("first")
    trained = stage("trained", "train", needs={"first": first}, trains=True)
    above = [stage(f"above {number}", needs={"trained": trained}) for number in range(4)]
    early = [trial(f"early {number}", first) for number in range(4)]
    return [*early, *(trial(one.config["name"], first, one) for one in above)]


SCENARIOS = {made.__name__: made for made in (apart, failing, full, full_alone, chain)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    parser.add_argument("--results")
    parser.add_argument("--address")
    chosen = parser.parse_args()
    storage = Storage(chosen.results)
    RowStore(storage, studies.tables()).begin()
    context = Context(ArtifactStore(storage), {"run": chosen.scenario}, ray=chosen.address is not None)
    trials = SCENARIOS[chosen.scenario]()

    def unable(one, error):
        print("unable", one.axes["block_name"], error.strip().splitlines()[-1], flush=True)

    def record(outcome):
        names = {one.key: one.axes["block_name"] for one in trials}
        print("failed" if outcome.failed else "ok", names[outcome.key], flush=True)

    schedule = Schedule(trials, missing_stages(trials, context), unable=unable)
    try:
        if chosen.address is None:
            LocalExecutor(context, Silent()).run(schedule, record)
        else:
            from harness.sweep.cluster import connected
            from harness.sweep.ray_executor import RayExecutor

            with connected(chosen.address):
                RayExecutor(context, Silent()).run(schedule, record)
    except FullDisk:
        print("FullDisk")


if __name__ == "__main__":
    main()
