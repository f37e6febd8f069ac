"""How close do searches get to the best of the grid, and at what cost? `search: auto` against four others.

    python benchmarks/search.py --data FOLDER       # CIFAR-10 in the Hub's Parquet layout; without it: from the Hub
    python benchmarks/search.py --results FOLDER    # keeps the grids, so that a second run only searches

Runs the grid (6 or 7 blocks x 7 or 8 timesteps x 3 pools x 2 heads) once for each pair of data set and backbone and
each seed. Then replays searches in it: fits are looked up, screening probes and high-frequency ratios are computed.
All have the same budget, in which a screening probe counts as a fit: the default one, and a third of it.

auto         `search: auto`: screening probes, then fits
frequency    A-SelecT: the timestep of the largest high-frequency ratio
local        Diff-Feat: local search over block x timestep
random, tpe  by Optuna; repeated, as they are random
same passes  the same, stopped before it would pass more images than auto; Optuna draws from as many timesteps

Prints the regret (the grid's best validation accuracy minus that of the best setting found, in points), the same in
test accuracy, and the shares of the grid that were passed and fitted, screens included; the last column is the time
that fits and probes took, as a share of the grid's fits. `search: auto` was designed on some pairs, the others are
held out (benchmarks/search_pairs.py). Takes about an hour on one CPU core for two seeds.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from search_pairs import Pair, pairs, trained_transformer

from harness.core.artifacts import ArtifactStore
from harness.core.provenance import provenance
from harness.core.row_store import RowStore
from harness.core.seeds import rng
from harness.core.stages import Context, Trial, run
from harness.core.storage import Storage
from harness.data.dataset import Images
from harness.features.study import STUDY
from harness.sweep import studies
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials
from harness.sweep.run import sweep
from harness.sweep.search_plan import Search, passes
from harness.sweep.searchers import searcher_for

METHODS = ("screening", "frequency", "local")
REPEATS = 10  # of random search and TPE, which are random, per seed
WANTED = 0.5  # points of regret
SMALL = 1 / 3  # of the budget


def experiment(pair: Pair, seed: int, results: Path) -> Any:
    """Returns the grid of a pair; trains its transformer first if it has one."""
    backbone = pair.backbone
    if pair.transformer:
        backbone = {"name": "pretrained", "path": str(trained_transformer(pair, seed, results))}
    training = {"batch": 64, "learning_rate": 0.002, "ema": 0.99, "workers": 0}
    values = {
        "seed": seed,
        "data": pair.data,
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


class Found(NamedTuple):
    """The result and cost of a search."""

    way: str
    budget: int
    regret: float  # points of validation accuracy
    test: float  # points of test accuracy below the grid's choice
    passes: float  # share of the grid's
    fits: int
    screens: int
    share: float  # of both, of the grid's fits
    seconds: float  # of fits and screens, as a share of the grid's


class Grid:
    """The measured grid of a pair, in which searches are replayed."""

    def __init__(self, pair: Pair, seed: int, results: Path) -> None:
        storage = Storage(str(results))
        grid = experiment(pair, seed, results)
        sweep(grid, storage, address=None, debug=True, quiet=True)
        self._context = Context(ArtifactStore(storage), provenance(), ray=False)
        rows = RowStore(storage, studies.tables()).tables()["features"].to_pylist()
        self._rows = {row["key"]: row for row in rows}
        images = Images.read(grid.data, seed)
        self.trials = [trial for trial in all_trials(grid, images) if trial.searchable]
        self.screens = {method: STUDY.auto.screens(method, self.trials) for method in METHODS}
        self._seed = seed

    def value(self, trial: Trial) -> float | None:
        """Returns a trial's objective; runs it if it is not one of the grid's."""
        if trial.key not in self._rows:
            outcome = run(trial, self._context, "cpu")
            (self._rows[trial.key],) = outcome.tables["features"]
        found: float | None = self._rows[trial.key].get(trial.objective)
        return found

    def chosen(self, method: str, trials: int, passed: float = inf) -> list[Trial]:
        """Returns what a method asks for, until it would pass more than so many images."""
        screens = self.screens[method]
        chooser = STUDY.auto.chooser(method, self.trials, screens, trials)
        by_key = {trial.key: trial for trial in [*self.trials, *screens]}
        known: dict[str, float | None] = {}
        asked: list[Trial] = []
        while keys := chooser.next(known):
            for key in keys:
                if passes([*asked, by_key[key]]) > passed:
                    return asked
                asked.append(by_key[key])
                known[key] = self.value(by_key[key])
        return asked

    def drawn(self, name: str, trials: int, number: int, timesteps: int) -> list[Trial]:
        """Returns what an Optuna search asks for, from so many timesteps drawn at random."""
        there = sorted({trial.axes["timestep"] for trial in self.trials})
        kept = rng(number, "timesteps").choice(there, timesteps, replace=False)
        grid = [trial for trial in self.trials if trial.axes["timestep"] in kept]
        axes = ("timestep", "block", "pool", "head")
        searcher: Any = searcher_for(
            Search("features", name, axes, grid, {}, min(trials, len(grid)), grid, grid), number
        )
        by_key = {trial.key: trial for trial in grid}
        asked = []
        for count in range(min(trials, len(grid))):
            asked.append(by_key[searcher.suggest(str(count))["key"]])
            searcher.on_trial_complete(str(count), {"objective": self.value(asked[-1])})
        return asked

    def judged(self, way: str, budget: int, asked: Sequence[Trial]) -> Found:
        """Compares the best fitted setting with the best of the grid."""

        def best(trials: Iterable[Trial]) -> dict[str, Any]:
            return max(
                (self._rows[one.key] for one in trials), key=lambda row: row["validation_accuracy"] or 0
            )

        def seconds(trials: Iterable[Trial]) -> float:
            return sum(self._rows[trial.key].get("fit_seconds") or 0 for trial in trials)

        fits = [trial for trial in asked if trial.searchable]
        screens = [trial for trial in asked if trial.axes["features"] == "screen"]
        top, found = best(self.trials), best(fits)
        return Found(
            way,
            budget,
            100 * (top["validation_accuracy"] - found["validation_accuracy"]),
            100 * (top["test_accuracy"] - found["test_accuracy"]),
            passes(asked) / passes(self.trials),
            len(fits),
            len(screens),
            (len(fits) + len(screens)) / len(self.trials),
            seconds(asked) / seconds(self.trials),
        )


def searches(pair: Pair, seed: int, results: str) -> list[Found]:
    """Runs the grid, then every search in it."""
    Path(results).mkdir(parents=True, exist_ok=True)
    grid = Grid(pair, seed, Path(results))
    full = STUDY.auto.chooser("screening", grid.trials, grid.screens["screening"], 1000).space.budget
    timesteps = len({trial.axes["timestep"] for trial in grid.trials})
    found = []
    for budget in (full, round(SMALL * full)):
        ours = grid.chosen("screening", budget)
        found.append(grid.judged("auto", budget, ours))
        passed = len({trial.axes["timestep"] for trial in ours if trial.searchable})
        found += [grid.judged(one, budget, grid.chosen(one, budget)) for one in ("frequency", "local")]
        same = grid.chosen("local", budget, passes(ours))
        found.append(grid.judged("local, same passes", budget, same))
        for name in ("random", "tpe"):
            for repeat in range(REPEATS):
                number = 1000 * seed + repeat
                free = grid.drawn(name, budget, number, timesteps)
                found.append(grid.judged(name, budget, free))
                bound = grid.drawn(name, budget, number, passed)
                found.append(grid.judged(f"{name}, same passes", budget, bound))
    return found


def table(found: Iterable[Found], title: str) -> str:
    """Returns one line per method and budget."""
    groups: dict[tuple[str, str], list[Found]] = defaultdict(list)
    most: dict[str, int] = {}
    for one in found:
        most["budget"] = max(most.get("budget", 0), one.budget)
    for one in found:
        groups[("full budget" if one.budget > most["budget"] / 2 else "a third of it"), one.way].append(one)
    lines = [
        f"{title:40}{'regret, points':>24}{'test':>7}{'passes':>8}{'fits':>6}{'screens':>9}{'both':>7}{'seconds':>9}",
        f"{'':40}{'mean':>8}{'worst':>8}{'<=0.5':>8}{'mean':>7}{'of grid':>8}{'':>15}{'of grid':>7}{'of grid':>9}",
    ]
    for (budget, way), ones in sorted(groups.items(), key=lambda group: group[0][0], reverse=True):
        regrets = [one.regret for one in ones]

        def mean(of: Callable[[Found], float], ones: list[Found] = ones) -> float:
            return statistics.mean(map(of, ones))

        within = sum(regret <= WANTED + 1e-9 for regret in regrets)
        lines.append(
            f"{budget + ', ' + way:40}{mean(lambda one: one.regret):8.2f}{max(regrets):8.2f}"
            f"{f'{within}/{len(ones)}':>8}{mean(lambda one: one.test):7.2f}{mean(lambda one: one.passes):8.1%}"
            f"{mean(lambda one: one.fits):6.1f}{mean(lambda one: one.screens):9.1f}"
            f"{mean(lambda one: one.share):7.1%}{mean(lambda one: one.seconds):9.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a folder with CIFAR-10 as Parquet files")
    parser.add_argument("--results", help="a folder in which to keep results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pairs", nargs="+", help="only those whose names contain one of these")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    every = pairs(asked.data)
    names = [name for name in every if not asked.pairs or any(one in name for one in asked.pairs)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="search-") as scratch:
        results = Path(asked.results or scratch)
        with ProcessPoolExecutor(asked.processes, mp_context=get_context("spawn")) as pool:
            jobs = {
                (name, seed): pool.submit(
                    searches, every[name], seed, str(results / f"{list(every).index(name)}-{seed}")
                )
                for seed in asked.seeds
                for name in names
            }
            for (name, seed), job in jobs.items():
                found[name] += job.result()
                print(f"{name}, seed {seed}: done", flush=True)
    for name in names:
        print(table(found[name], f"{name}{' (tuned on)' if every[name].tuned else ' (held out)'}"), "\n")
    for title, tuned in (("ALL TUNED ON", True), ("ALL HELD OUT", False)):
        chosen = [one for name in names if every[name].tuned == tuned for one in found[name]]
        if chosen:
            print(table(chosen, title), "\n")


if __name__ == "__main__":
    main()
