"""Study 2, trial by trial: what was generated, beside what it was generated from and beside the controls."""

from typing import Any, NamedTuple

import pandas as pd

from harness.report.correctness import Correctness, Paired, Who, compare
from harness.report.figures.figure import succeeded, varied
from harness.report.figures.kinds import SETUP, kind_order
from harness.report.paired import mann_whitney
from harness.report.tables import Tables, best_row
from harness.report.words import Estimate, estimate, number

GENERATED, ORIGINAL, ENSEMBLE = "generated", "original", "ensemble"
SUMMARISED = (ORIGINAL, ENSEMBLE, GENERATED, "reconstructed")  # kinds with columns in the table `weights`


class Summary(NamedTuple):
    """Test accuracies of many networks: the best on validation, the mean, the median; from 0 to 1."""

    best: Estimate
    mean: float | None
    median: float | None
    networks: int | None


class Novelty(NamedTuple):
    """Generated networks against originals among themselves, by one measure of nearness."""

    generated: float | None  # mean over generated networks
    original: float | None  # mean over originals, each against the others
    z: float | None  # Mann-Whitney: above 0 where generated values tend to be larger


class Control(NamedTuple):
    """Networks of one kind and setting: the one selected on validation, and means over all."""

    kind: str
    setting: float | None
    networks: int
    best: Estimate
    mean: float | None
    similarity: float | None
    distance: float | None
    paired: Paired | None  # best generated against it, where both have predictions


class Trial(NamedTuple):
    """One pool of K originals and what was generated from it."""

    setup: dict[str, Any]  # data, network, parameters and seed, those that vary; k; subset
    original: Summary
    ensemble: Estimate
    generated: Summary
    difference: float | None  # best generated less best original, test accuracy
    p: float | None
    similarity: Novelty
    distance: Novelty
    kinds: list[Control]  # every kind of network, in the order of the tables


def trials(tables: Tables, correctness: Correctness) -> list[Trial]:
    """Returns the trials that succeeded, by setup and then K."""
    frame = succeeded(tables.weights)
    setup = [*varied(frame, SETUP), "k", "subset"]
    frame = frame.sort_values(setup, kind="stable")
    networks = dict(tuple(succeeded(tables.networks).groupby("key")))
    nothing = tables.networks.iloc[:0]
    return [_trial(row, setup, networks.get(row["key"], nothing), correctness) for _, row in frame.iterrows()]


def _trial(row: Any, setup: list[str], networks: pd.DataFrame, correctness: Correctness) -> Trial:
    return Trial(
        setup={name: row[name] for name in setup},
        original=_summary(row, ORIGINAL),
        ensemble=estimate(row, "ensemble_accuracy"),
        generated=_summary(row, GENERATED),
        difference=number(row["generated_minus_original"]),
        p=number(row["p_value"]),
        similarity=_novelty(networks, "max_similarity"),
        distance=_novelty(networks, "distance"),
        kinds=_kinds(row, networks, correctness),
    )


def _summary(row: Any, name: str) -> Summary:
    networks = number(row[f"{name}_networks"])
    return Summary(
        best=estimate(row, f"{name}_best_accuracy"),
        mean=number(row[f"{name}_mean_accuracy"]),
        median=number(row[f"{name}_median_accuracy"]),
        networks=None if networks is None else int(networks),
    )


def _novelty(networks: pd.DataFrame, column: str) -> Novelty:
    generated, original = (networks[networks["kind"] == kind][column] for kind in (GENERATED, ORIGINAL))
    return Novelty(number(generated.mean()), number(original.mean()), mann_whitney(generated, original))


def _kinds(row: Any, networks: pd.DataFrame, correctness: Correctness) -> list[Control]:
    groups = {
        (str(kind), number(setting)): rows
        for (kind, setting), rows in networks.groupby(["kind", "setting"], dropna=False)
    }
    generated = groups.get((GENERATED, None))
    best = None if generated is None else _vector(row["key"], generated, correctness)
    found = []
    for kind, setting in sorted(groups, key=lambda pair: kind_order(*pair)):
        rows = groups[kind, setting]
        pair = None if kind == GENERATED else compare(best, _vector(row["key"], rows, correctness))
        found.append(
            Control(
                kind=kind,
                setting=setting,
                networks=len(rows),
                best=_selected_accuracy(rows),
                mean=number(rows["test_accuracy"].mean()),
                similarity=number(rows["max_similarity"].mean()),
                distance=number(rows["distance"].mean()),
                paired=pair,
            )
        )
    return found


def _selected(rows: pd.DataFrame) -> Any:
    """Returns the network selected on validation, or None: nothing is ever selected on test here."""
    chosen = rows[rows["selected"].fillna(False).astype(bool)]
    if len(chosen) == 1:
        return chosen.iloc[0]
    best = best_row(rows, "validation_accuracy")
    return rows.iloc[0] if best is None and len(rows) == 1 else best


def _selected_accuracy(rows: pd.DataFrame) -> Estimate:
    row = _selected(rows)
    return Estimate(None, None, None, None) if row is None else estimate(row, "test_accuracy")


def _vector(key: str, rows: pd.DataFrame, correctness: Correctness) -> Any:
    row = _selected(rows)
    if row is None:
        return None
    index = number(row["index"])
    who = Who(key, row["kind"], number(row["setting"]), None if index is None else int(index))
    return correctness.find(who, number(row["test_accuracy"]))
