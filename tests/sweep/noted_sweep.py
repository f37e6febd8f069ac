"""Makes the stages of `noted` and runs its trials on a cluster: noted_sweep.py NAME --results URL --address ADDRESS

Prints nothing but a line a trial that failed.
"""

import argparse
from functools import partial
from pathlib import Path

from harness.core.artifacts import ArtifactStore
from harness.core.row_store import RowStore
from harness.core.stages import Code, Context, Stage, Trial
from harness.core.storage import Storage
from harness.sweep import studies
from harness.sweep.schedule import Schedule

STAGES, TRIALS = 6, 16


class Silent:
    """A display that shows what failed."""

    def __getattr__(self, name):
        return lambda *arguments: print(name, *arguments, flush=True) if "failed" in name else None


def stages(name):
    return [
        Stage("noted", Code("noted", 1, "noted:make"), {"of": name, "number": number})
        for number in range(STAGES)
    ]


def trials(name):
    values = {"seed": 0, "data": "d", "data_fingerprint": "f", "config": {"of": name}}
    cell = partial(
        Trial, "features", "features", "validation_accuracy", Code("noted", 1, "noted:run"), **values
    )
    return [cell(axes={"block": number}) for number in range(TRIALS)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", type=lambda path: Path(path).stem)
    parser.add_argument("--results")
    parser.add_argument("--address")
    chosen = parser.parse_args()
    from harness.sweep.cluster import connected
    from harness.sweep.ray_executor import RayExecutor

    storage = Storage(chosen.results)
    RowStore(storage, studies.tables()).begin()
    context = Context(ArtifactStore(storage), {"run": chosen.name})
    ended = []
    with connected(chosen.address):
        schedule = Schedule(trials(chosen.name), stages(chosen.name), unable=print)
        RayExecutor(context, Silent()).run(schedule, ended.append)
    for outcome in ended:
        if outcome.failed:
            print(outcome.tables["features"][0]["error"])
    assert all(context.has(stage) for stage in stages(chosen.name))
    assert {outcome.key for outcome in ended if not outcome.failed} == {
        one.key for one in trials(chosen.name)
    }


if __name__ == "__main__":
    main()
