"""Study 2, trial by trial: what was generated, beside what it was generated from and beside the controls."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.report.correctness import Correctness, Paired, Who, compare
from harness.report.figures.figure import succeeded, varied
from harness.report.figures.kinds import kind_order
from harness.report.setups import RUNS, SETUP, Mean, in_order, mean_over_runs, measured, telling
from harness.report.tables import Tables
from harness.report.verdict import Evidence, Verdict, judge
from harness.report.words import Estimate, estimate, number

GENERATED, ORIGINAL, ENSEMBLE = "generated", "original", "ensemble"
TRIVIAL = ("average", "gaussian")  # controls that take no learning at all
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
    """All runs of one setup: means over seeds and runs of the generator."""

    setup: dict[str, Any]  # what tells it from others, beside seed and generator; k
    data: Any
    network: Any
    runs: int
    accuracies: dict[str, Mean]  # of each of `COLUMNS`, from 0 to 1
    gain: Mean  # best generated less best original, test accuracy
    p: float | None  # of the gain, where there is one run


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
    paired: Paired | None  # best generated against it, where both have predictions


class Trial(NamedTuple):
    """One set of K originals, one run of the generator on it, and what stands beside."""

    setup: dict[str, Any]  # what tells it from others; k
    permuted: bool  # whether the originals began from different networks
    original: Summary
    ensemble: Estimate
    generated: Summary
    gain: Estimate  # best generated less best original, test accuracy
    p: float | None
    newness: dict[str, float | None]  # each of `NEWNESS`, and "new_and_good_share"
    verdict: Verdict
    trivial: Kind | None  # the strongest of `TRIVIAL` on validation
    mean_gain: Mean  # mean of generated less mean of originals, over all runs of this setup
    trivial_mean_gain: Mean  # the same for the strongest trivial control
    kinds: list[Kind]  # every kind of network, in the order of the tables


def settings(tables: Tables) -> list[Setting]:
    """Returns the setups of the trials that succeeded, in order."""
    frame = succeeded(tables.weights)
    names = [*telling(frame, SETUP), *taken(frame)]
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
            )
        )
    return found


def taken(frame: pd.DataFrame) -> list[str]:
    """Returns the columns that say which originals were taken from the pool: always k, and how if that varies."""
    return ["k", *varied(frame, ["subset"])]


def trials(tables: Tables, correctness: Correctness) -> list[Trial]:
    """Returns the trials that succeeded, by setup and then K."""
    frame = succeeded(tables.weights)
    setup = [*telling(frame, SETUP), *varied(frame, RUNS), *taken(frame)]
    frame = in_order(frame, setup)
    networks = _networks(succeeded(tables.networks))
    found = [_trial(row, setup, networks, correctness) for row in frame.to_dict("records")]
    return _with_runs(found, frame)


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


def _trial(row: Any, setup: list[str], networks: Networks, correctness: Correctness) -> Trial:
    kinds = _kinds(row["key"], networks, correctness)
    trivial = _strongest(kinds)
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
        p=number(row["p_value"]),
        trivial_gain=None if pair is None else pair.difference,
        trivial_p=None if pair is None else pair.p,
    )
    nothing = Mean(None, None, None, 0)
    return Trial(
        setup={name: row[name] for name in setup},
        permuted=number(row["permuted"]) == 1,
        original=_summary(row, ORIGINAL),
        ensemble=estimate(row, "ensemble_accuracy"),
        generated=generated,
        gain=gain,
        p=evidence.p,
        newness=newness,
        verdict=judge(evidence),
        trivial=trivial,
        mean_gain=nothing,
        trivial_mean_gain=nothing,
        kinds=kinds,
    )


def _with_runs(found: list[Trial], frame: pd.DataFrame) -> list[Trial]:
    """Fills in the gains of the means over all runs of each trial's setup; `frame` has a row for each trial."""
    if not found:
        return found
    frame = frame.assign(
        of_generated=[_less(t.generated.mean, t.original.mean) for t in found],
        of_trivial=[_less(t.trivial.mean if t.trivial else None, t.original.mean) for t in found],
    )
    groups = frame.groupby([*telling(frame, SETUP), *taken(frame)], dropna=False).ngroup().to_numpy()
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


def _strongest(kinds: list[Kind]) -> Kind | None:
    known = [kind for kind in kinds if kind.kind in TRIVIAL and kind.best.value is not None]
    return max(known, key=lambda kind: kind.validation or 0.0, default=None)


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
    """Returns the network selected on validation, or None: nothing is ever selected on test here."""
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
