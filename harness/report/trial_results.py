"""Study 2, trial by trial: generated networks compared with their originals and with the controls."""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.core.tables import Table
from harness.metrics.inference import holm
from harness.report.correctness import Correctness, Paired, Who, compare, judged_together
from harness.report.figures.figure import succeeded, varied
from harness.report.figures.kinds import kind_order
from harness.report.setups import RUNS, Mean, axes, in_order, mean_over_runs, measured, setup, telling
from harness.report.tables import Tables
from harness.report.verdict import Evidence, Verdict, judge
from harness.report.words import Estimate, estimate, number

GENERATED, ORIGINAL, ENSEMBLE = "generated", "original", "ensemble"
TRIVIAL = ("average", "gaussian")  # controls that need no learning
MEASURES = ("max_similarity", "distance", "distance_raw", "distance_to_mean", "off_span", "step_gap")
NEWNESS = ("copying_z", "copying_z_raw", "mean_z", "variance_ratio", "distance_ratio", "new_share")
STATISTICS = ("best", "mean", "median")
COLUMNS = (
    *(f"{ORIGINAL}_{statistic}_accuracy" for statistic in STATISTICS),
    "ensemble_accuracy",
    *(f"{GENERATED}_{statistic}_accuracy" for statistic in STATISTICS),
)
GAIN = "generated_minus_original"
ACCURACY = tuple(f"test_accuracy{end}" for end in ("", "_low", "_high", "_n"))


class Setting(NamedTuple):
    """All runs of one set-up: means over seeds and runs of the generator."""

    setup: dict[str, Any]  # what distinguishes it from others, apart from seed and generator; k
    data: Any
    network: Any
    runs: int
    accuracies: dict[str, Mean]  # of each of `COLUMNS`, from 0 to 1
    gain: Mean  # best generated minus best original, test accuracy
    p: float | None  # of the gain, where there is one run
    p_adjusted: float | None  # by Holm's method, over all trials


class Summary(NamedTuple):
    """Test accuracies of many networks: the best on validation, the mean, the median; from 0 to 1."""

    best: Estimate
    mean: float | None
    median: float | None
    networks: int | None


class Networks(NamedTuple):
    """The table of networks as arrays: a data frame takes milliseconds for every small selection."""

    columns: dict[str, np.ndarray]  # numbers, NaN is missing
    kinds: list[tuple[str, float | None]]  # kind and setting of each network
    places: dict[str, dict[tuple[str, float | None], np.ndarray]]  # by trial's key, kind and setting


class Spread(NamedTuple):
    """The median and the range from the 5th to the 95th percentile; None is missing."""

    median: float | None
    low: float | None
    high: float | None


class Kind(NamedTuple):
    """Networks of one kind and setting: the one selected on validation, and all of them."""

    kind: str
    setting: float | None
    networks: int
    validation: float | None  # of the one selected
    best: Estimate
    mean: float | None
    measures: dict[str, Spread]  # of each of `MEASURES`
    paired: (
        Paired | None
    )  # best generated against it, adjusted over all trials; None without both predictions


class Trial(NamedTuple):
    """One set of K originals, one run of the generator on it, and the controls."""

    setup: dict[str, Any]  # what distinguishes it from others; k
    permuted: bool  # whether the originals began from different networks
    original: Summary
    ensemble: Estimate
    generated: Summary
    gain: Estimate  # best generated minus best original, test accuracy
    p: float | None  # of the gain
    p_adjusted: float | None  # by Holm's method, over all trials
    newness: dict[str, float | None]  # each of `NEWNESS`, and "new_and_good_share"
    verdict: Verdict
    trivial: (
        Kind | None
    )  # the strongest of `TRIVIAL` on validation, `paired` adjusted over these of all trials
    mean_gain: Mean  # mean of generated minus mean of originals, over all runs of this set-up
    trivial_mean_gain: Mean  # the same for the strongest trivial control
    kinds: list[Kind]  # every kind of network, in the order of the tables


def settings(tables: Tables) -> list[Setting]:
    """Returns the set-ups of the trials that succeeded, in order."""
    frame = _with_adjusted_p(succeeded(tables.weights))
    declared = tables.declared["weights"]
    names = [*telling(frame, setup(declared)), *taken(frame, declared)]
    found = []
    for values, rows in in_order(frame, names).groupby(names, dropna=False, sort=False):
        gain = measured(rows, GAIN)
        found.append(
            Setting(
                setup=dict(zip(names, values, strict=True)),
                data=rows["data"].iloc[0],
                network=rows["network"].iloc[0],
                runs=len(rows),
                accuracies={column: measured(rows, column) for column in COLUMNS},
                gain=gain,
                p=number(rows["p_value"].iloc[0]) if len(rows) == 1 else None,
                p_adjusted=number(rows["p_adjusted"].iloc[0]) if len(rows) == 1 else None,
            )
        )
    return found


def taken(frame: pd.DataFrame, declared: Table) -> list[str]:
    """Returns the columns that say which originals were chosen: always k, and how if that varies."""
    return ["k", *varied(frame, axes(declared))]


def trials(tables: Tables, correctness: Correctness) -> list[Trial]:
    """Returns the trials that succeeded, by set-up and then K."""
    frame = _with_adjusted_p(succeeded(tables.weights))
    declared = tables.declared["weights"]
    names = [*telling(frame, setup(declared)), *varied(frame, RUNS), *taken(frame, declared)]
    frame = in_order(frame, names)
    networks = _networks(succeeded(tables.networks))
    rows = frame.to_dict("records")
    kinds = _judged_over_trials([_kinds(row["key"], networks, correctness) for row in rows])
    trivial = _strongest(kinds)
    each = zip(rows, kinds, trivial, strict=True)
    found = [_trial(row, names, its_kinds, strongest) for row, its_kinds, strongest in each]
    return _with_runs(found, frame, [name for name in names if name not in RUNS])


def _with_adjusted_p(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the column `p_adjusted`: the p-values of the gains, adjusted for multiple comparisons."""
    return frame.assign(p_adjusted=holm([number(p) for p in frame["p_value"]]))


def _judged_over_trials(kinds: list[list[Kind]]) -> list[list[Kind]]:
    """Returns the trials' kinds with p-values adjusted over the trials that compare the same kind and setting."""
    places = defaultdict(list)
    for trial, row in enumerate(kinds):
        for place, kind in enumerate(row):
            places[kind.kind, kind.setting].append((trial, place))
    found = [list(row) for row in kinds]
    for same in places.values():
        pairs = judged_together([kinds[trial][place].paired for trial, place in same])
        for (trial, place), pair in zip(same, pairs, strict=True):
            found[trial][place] = kinds[trial][place]._replace(paired=pair)
    return found


def _networks(frame: pd.DataFrame) -> Networks:
    frame = frame.assign(step_gap=(frame["step"] - frame["nearest_step"]).abs())
    names = ("index", "selected", "validation_accuracy", *ACCURACY, *MEASURES)
    columns = {name: frame[name].to_numpy(float, na_value=np.nan) for name in names}
    settings = [number(setting) for setting in frame["setting"]]
    kinds = list(zip(map(str, frame["kind"]), settings, strict=True))
    places: dict[str, dict[tuple[str, float | None], list[int]]] = {}
    for place, (key, kind) in enumerate(zip(frame["key"], kinds, strict=True)):
        places.setdefault(key, {}).setdefault(kind, []).append(place)
    arrays = {key: {kind: np.array(at) for kind, at in groups.items()} for key, groups in places.items()}
    return Networks(columns, kinds, arrays)


def _trial(row: Any, names: list[str], kinds: list[Kind], trivial: Kind | None) -> Trial:
    generated = _summary(row, GENERATED)
    pair = None if trivial is None else trivial.paired
    gain = Estimate(
        number(row[GAIN]), number(row[f"{GAIN}_low"]), number(row[f"{GAIN}_high"]), generated.best.n
    )
    newness = {name: number(row[name]) for name in (*NEWNESS, "new_and_good_share")}
    evidence = Evidence(
        copying_z=newness["copying_z"],
        mean_z=None if number(row["k"]) == 1 else newness["mean_z"],
        variance_ratio=newness["variance_ratio"],
        distance_ratio=newness["distance_ratio"],
        generated=generated.networks,
        gain=gain.value,
        p=number(row["p_adjusted"]),
        trivial_gain=None if pair is None else pair.difference,
        trivial_p=None if pair is None else pair.p_adjusted,
    )
    nothing = Mean(None, None, None, 0)
    return Trial(
        setup={name: row[name] for name in names},
        permuted=number(row["permuted"]) == 1,
        original=_summary(row, ORIGINAL),
        ensemble=estimate(row, "ensemble_accuracy"),
        generated=generated,
        gain=gain,
        p=number(row["p_value"]),
        p_adjusted=evidence.p,
        newness=newness,
        verdict=judge(evidence),
        trivial=trivial,
        mean_gain=nothing,
        trivial_mean_gain=nothing,
        kinds=kinds,
    )


def _with_runs(found: list[Trial], frame: pd.DataFrame, names: list[str]) -> list[Trial]:
    """Fills in the gains of the means over all runs of each trial's set-up, the columns `names`.

    `frame` has a row for each trial.
    """
    if not found:
        return found
    frame = frame.assign(
        of_generated=[_less(t.generated.mean, t.original.mean) for t in found],
        of_trivial=[_less(t.trivial.mean if t.trivial else None, t.original.mean) for t in found],
    )
    groups = frame.groupby(names, dropna=False).ngroup().to_numpy()
    gains = {}
    for group in np.unique(groups):
        rows = frame[groups == group]
        known = (rows.dropna(subset=[name]) for name in ("of_generated", "of_trivial"))
        gains[group] = [
            mean_over_runs(part[name], part["seed"]) if len(part) else Mean(None, None, None, 0)
            for name, part in zip(("of_generated", "of_trivial"), known, strict=True)
        ]
    return [
        trial._replace(mean_gain=gains[group][0], trivial_mean_gain=gains[group][1])
        for trial, group in zip(found, groups, strict=True)
    ]


def _less(first: float | None, second: float | None) -> float:
    return float("nan") if first is None or second is None else first - second


def _strongest(kinds: list[list[Kind]]) -> list[Kind | None]:
    """Returns each trial's strongest trivial control, with p-values adjusted for these of all trials."""
    known = ([kind for kind in row if kind.kind in TRIVIAL and kind.best.value is not None] for row in kinds)
    found = [max(row, key=lambda kind: kind.validation or 0.0, default=None) for row in known]
    pairs = judged_together([None if kind is None else kind.paired for kind in found])
    return [
        None if kind is None else kind._replace(paired=pair) for kind, pair in zip(found, pairs, strict=True)
    ]


def _summary(row: Any, name: str) -> Summary:
    networks = number(row[f"{name}_networks"])
    return Summary(
        best=estimate(row, f"{name}_best_accuracy"),
        mean=number(row[f"{name}_mean_accuracy"]),
        median=number(row[f"{name}_median_accuracy"]),
        networks=None if networks is None else int(networks),
    )


def _kinds(key: str, networks: Networks, correctness: Correctness) -> list[Kind]:
    groups = networks.places.get(key, {})
    selected = {who: _selected(networks, places) for who, places in groups.items()}
    best = _vector(key, selected.get((GENERATED, None)), networks, correctness)
    found = []
    for kind, setting in sorted(groups, key=lambda pair: kind_order(*pair)):
        places, chosen = groups[kind, setting], selected[kind, setting]
        tests = networks.columns["test_accuracy"][places]
        tests = tests[np.isfinite(tests)]
        pair = None if kind == GENERATED else compare(best, _vector(key, chosen, networks, correctness))
        found.append(
            Kind(
                kind=kind,
                setting=setting,
                networks=len(places),
                validation=None
                if chosen is None
                else number(networks.columns["validation_accuracy"][chosen]),
                best=_accuracy(networks, chosen),
                mean=float(tests.mean()) if len(tests) else None,
                measures={name: _spread(networks.columns[name][places]) for name in MEASURES},
                paired=pair,
            )
        )
    return found


def _accuracy(networks: Networks, place: int | None) -> Estimate:
    if place is None:
        return Estimate(None, None, None, None)
    return estimate({name: networks.columns[name][place] for name in ACCURACY}, "test_accuracy")


def _spread(values: np.ndarray) -> Spread:
    values = values[np.isfinite(values)]
    if not len(values):
        return Spread(None, None, None)
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return Spread(median, low, high)


def _selected(networks: Networks, places: np.ndarray) -> int | None:
    """Returns the network selected on validation, or None: nothing is ever selected on test."""
    chosen = places[networks.columns["selected"][places] == 1]
    if len(chosen) == 1:
        return int(chosen[0])
    validation = networks.columns["validation_accuracy"][places]
    if np.isfinite(validation).any():
        return int(places[np.nanargmax(validation)])
    return int(places[0]) if len(places) == 1 else None


def _vector(key: str, place: int | None, networks: Networks, correctness: Correctness) -> Any:
    if place is None:
        return None
    index = number(networks.columns["index"][place])
    who = Who(key, *networks.kinds[place], None if index is None else int(index))
    return correctness.find(who, number(networks.columns["test_accuracy"][place]))
