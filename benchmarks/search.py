"""How close does `search: auto` get to the best of the grid, and at what cost? Compared with random search and TPE.

    python benchmarks/search.py --data FOLDER       # CIFAR-10 in the Hub's Parquet layout; without it: from the Hub
    python benchmarks/search.py --results FOLDER    # keeps the grids, so that a second run only searches

Runs the grid (7 blocks x 7 timesteps x 3 pools x 2 heads) once for each pair of data set and backbone and each
seed. Then runs the searches: fits are looked up in the grid, screening probes are actually computed. Prints for each
method the regret (the grid's best validation accuracy minus that of the best setting found, in points), the same in
test accuracy, and the shares of the grid's image passes and head fits. The last columns also include the screening
probes, which are closed-form solutions on a fraction of the images: in the number of fits, and in the seconds spent
fitting. Random search and TPE get as many fits as auto, once without restriction, and once within auto's number of
passes, which is one timestep. Takes about 15 minutes on two CPU cores.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from search_pairs import Pair, pairs, trained_transformer

from harness.core.artifacts import ArtifactStore
from harness.core.provenance import provenance
from harness.core.row_store import RowStore
from harness.core.seeds import rng
from harness.core.stages import Context, Trial, objective, run
from harness.core.storage import Storage
from harness.data.dataset import Images
from harness.sweep import studies
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import make_plan
from harness.sweep.run import sweep
from harness.sweep.search_plan import Search, passes
from harness.sweep.searchers import searcher_for

REPEATS = 10  # of random search and TPE, which are random, per seed
WANTED = {"regret": 0.5, "passes": 1 / 4, "fits": 1 / 10}


def experiment(pair: Pair, seed: int, search: str, results: Path) -> Any:
    """Returns the grid of a pair, or a search in it; trains its transformer first if it has one."""
    backbone = pair.backbone
    if pair.transformer:
        backbone = {"name": "pretrained", "path": str(trained_transformer(pair, seed, results))}
    training = {"batch": 64, "learning_rate": 0.002, "ema": 0.99, "workers": 0}
    values = {
        "seed": seed,
        "data": pair.data,
        "search": {"name": search, "trials": 1000},
        "features": {
            "backbone": backbone,
            "train": {"steps": pair.steps, **training},
            "blocks": pair.blocks,
            "timesteps": pair.timesteps,
            "pools": [1, 2, 4],
            "heads": [
                {"name": "linear", "strengths": [0.03]},
                {"name": "mlp", "hidden": [32], "train": {"steps": 40, "learning_rate": 0.003, "workers": 0}},
            ],
            "controls": [],
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "searched.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_experiment(str(path), [])


class Measured(NamedTuple):
    """Further measurements of a trial."""

    test_accuracy: float
    fit_seconds: float


class Found(NamedTuple):
    """The result and cost of a search."""

    way: str
    regret: float  # points of validation accuracy
    test: float  # points of test accuracy below the grid's choice
    passes: float  # share of the grid's
    fits: float
    fits_and_screens: float
    seconds: float  # of fitting heads, screening probes included


def searches(pair: dict[str, Any], seed: int, results: str) -> list[Found]:
    """Runs the grid, then every search in it."""
    storage = Storage(results)
    sweep(experiment(pair, seed, "grid"), storage, address=None, debug=True, quiet=True)
    context = Context(ArtifactStore(storage), provenance(), ray=False)
    rows = RowStore(storage, studies.tables()).tables()
    auto = experiment(pair, seed, "auto")
    (search,) = make_plan(auto, Images.read(auto.data, seed), rows, context).searches
    columns = ("key", "test_accuracy", "fit_seconds")
    measured = {
        key: Measured(*rest)
        for key, *rest in zip(*(rows["features"][name].to_pylist() for name in columns), strict=True)
    }
    asked = chosen(search, context, measured)
    found = [judged("auto", search, measured, asked)]
    fits = [trial for trial in asked if trial.searchable]
    for name in ("random", "tpe"):
        for repeat in range(REPEATS):
            number = 1000 * seed + repeat
            free = search._replace(
                name=name, candidates=search.grid, chooser=None, budget=len(fits), known={}
            )
            found.append(judged(f"{name}, same fits", search, measured, drawn(free, search.known, number)))
            timesteps = sorted({trial.axes["timestep"] for trial in search.grid})
            one = timesteps[int(rng(number, "timestep").integers(len(timesteps)))]
            there = [trial for trial in search.grid if trial.axes["timestep"] == one]
            bound = free._replace(candidates=there, budget=min(len(fits), len(there)))
            found.append(judged(f"{name}, same cost", search, measured, drawn(bound, search.known, number)))
    return found


def chosen(search: Search, context: Context, measured: dict[str, Measured]) -> list[Trial]:
    """Returns the trials that auto requests; runs screening probes, adds them to `measured`, looks up the others."""
    assert search.chooser is not None
    by_key = {trial.key: trial for trial in search.candidates}
    known: dict[str, float | None] = {}
    asked = []
    while keys := search.chooser.next(known):
        for key in keys:
            trial = by_key[key]
            asked.append(trial)
            if trial.searchable:
                known[key] = search.known[key]
            else:
                outcome = run(trial, context, "cpu")
                known[key] = objective(trial, outcome)
                measured[key] = Measured(0.0, outcome.tables["features"][0].get("fit_seconds") or 0.0)
    return asked


def drawn(search: Search, values: Mapping[str, float | None], seed: int) -> list[Trial]:
    """Returns the trials that an Optuna search requests, in order."""
    searcher: Any = searcher_for(search, seed)
    by_key = {trial.key: trial for trial in search.candidates}
    asked = []
    for count in range(search.budget):
        key = searcher.suggest(str(count))["key"]
        asked.append(by_key[key])
        searcher.on_trial_complete(str(count), {"objective": values[key]})
    return asked


def judged(way: str, search: Search, measured: Mapping[str, Measured], asked: Iterable[Trial]) -> Found:
    """Compares the best fitted setting with the best of the grid."""

    def value(trial: Trial) -> float:
        return search.known[trial.key] or 0.0

    def seconds(trials: Iterable[Trial]) -> float:
        return sum(measured[trial.key].fit_seconds for trial in trials)

    asked = list(asked)
    fitted = [trial for trial in asked if trial.searchable]
    best, found = max(search.grid, key=value), max(fitted, key=value)
    return Found(
        way,
        100 * (value(best) - value(found)),
        100 * (measured[best.key].test_accuracy - measured[found.key].test_accuracy),
        passes(asked) / passes(search.grid),
        len(fitted) / len(search.grid),
        len(asked) / len(search.grid),
        seconds(asked) / seconds(search.grid),
    )


def table(found: Mapping[str, list[Found]]) -> str:
    """Returns one line per pair and method."""
    lines = [
        f"{'':28}{'':20}{'regret, points':>24}{'test':>7}{'passes':>8}{'fits':>7}{'+screens':>9}{'seconds':>9}",
        f"{'':28}{'':20}{'mean':>8}{'worst':>8}{'<=0.5':>8}{'mean':>7}{'of grid':>8}{'':>7}{'':>9}{'of fits':>9}",
    ]
    for pair, every in found.items():
        by_way: dict[str, list[Found]] = defaultdict(list)
        for one in every:
            by_way[one.way].append(one)
        for way, ones in by_way.items():
            regrets = [one.regret for one in ones]

            def mean(of: Callable[[Found], float], ones: list[Found] = ones) -> float:
                return statistics.mean(map(of, ones))

            within = sum(regret <= WANTED["regret"] + 1e-9 for regret in regrets)
            lines.append(
                f"{pair:28}{way:20}{mean(lambda one: one.regret):8.2f}{max(regrets):8.2f}"
                f"{f'{within}/{len(ones)}':>8}{mean(lambda one: one.test):7.2f}{mean(lambda one: one.passes):8.1%}"
                f"{mean(lambda one: one.fits):7.1%}{mean(lambda one: one.fits_and_screens):9.1%}"
                f"{mean(lambda one: one.seconds):9.1%}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder with CIFAR-10 as Parquet files")
    parser.add_argument("--results", help="a folder in which to keep results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pairs", nargs="+", help="only those whose names contain one of these")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    names = [name for name in pairs(asked.data) if not asked.pairs or any(one in name for one in asked.pairs)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        results = Path(asked.results or scratch)
        with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
            jobs = [
                (
                    name,
                    pool.submit(
                        searches, pairs(asked.data)[name], seed, str(results / f"{names.index(name)}-{seed}")
                    ),
                )
                for seed in asked.seeds
                for name in names
            ]
            for name, job in jobs:
                found[name] += job.result()
                print(
                    f"{name}: auto {found[name][-1 - 4 * REPEATS].regret:.2f} points from the best",
                    flush=True,
                )
    print(table(found))


if __name__ == "__main__":
    main()
