"""Study 1 on several data sets: best settings, rank correlations, and the cost of using another's choice."""

from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup
from scipy.stats import spearmanr

from harness.report.figures.figure import levels, split, varied
from harness.report.figures.probes import columns, known
from harness.report.rendering import render
from harness.report.tables import Tables, best_row
from harness.report.words import Estimate, estimate, number

LEAST_SHARED = 3  # settings measured on both data sets, below which a rank correlation means nothing


class Best(NamedTuple):
    """A data set's best setting on validation."""

    data: str
    setting: dict[str, Any]
    candidates: int
    validation: Estimate
    test: Estimate


class Transfer(NamedTuple):
    """Pairs of data sets; None where too few settings were measured on both."""

    data: list[str]
    correlation: list[list[float | None]]  # Spearman's, of validation scores over the shared settings
    regret: list[list[float | None]]  # [chosen on][used on]: score lost on validation, 0 to 1


class Pair(NamedTuple):
    """Two data sets and a number for the pair, such as the cost on the second of choosing on the first."""

    value: float
    first: str
    second: str


def best_settings(tables: Tables) -> list[Best]:
    """Returns each data set's best setting on the trained backbone's features, in the order of names."""
    frame = known(tables, "trained").dropna(subset=["data"])
    own = columns(tables)
    names = [*varied(frame, own.setup), *own.axes]
    found = []
    for choice, rows in split(frame, ["data"]) if len(frame) else ():
        row = best_row(rows, "validation_score")
        test, validation = estimate(row, "test_score"), estimate(row, "validation_score")
        found.append(Best(choice["data"], {name: row[name] for name in names}, len(rows), validation, test))
    return found


def transfer(tables: Tables) -> Transfer | None:
    """Returns how settings transfer, None if there is only one data set; seeds of a setting are averaged."""
    own = columns(tables)
    frame = known(tables, "trained").dropna(subset=["data", *own.axes])
    data = levels(frame["data"])
    if len(data) < 2:
        return None
    wide = (
        frame.groupby([*own.setting, "data"], dropna=False)["validation_score"].mean().unstack("data")[data]
    )
    return Transfer(
        [str(name) for name in data],
        [[_rank_correlation(wide[one], wide[other]) for other in data] for one in data],
        [
            [number(wide[used].max() - wide[used].iloc[int(wide[chosen].argmax())]) for used in data]
            for chosen in data
        ],
    )


def _rank_correlation(one: pd.Series, other: pd.Series) -> float | None:
    """Returns Spearman's of the settings that both have; None if there are too few or one side is constant."""
    shared = pd.DataFrame({"one": one, "other": other}).dropna()
    if len(shared) < LEAST_SHARED or shared.nunique().min() < 2:
        return None
    return float(spearmanr(shared["one"], shared["other"]).statistic)


def sentence(tables: Tables) -> Markup:
    """Returns a paragraph on how settings transfer; nothing for a single data set."""
    found = transfer(tables)
    if found is None:
        return Markup()
    lost = _pairs(found, found.regret)
    similar = [pair for pair in _pairs(found, found.correlation) if pair.first < pair.second]  # symmetric
    return render(
        "transfer_sentence.html",
        count=len(found.data),
        least_similar=min(similar, default=None),
        costliest=max(lost, default=None),
        mean=sum(pair.value for pair in lost) / len(lost) if lost else None,
    )


def _pairs(found: Transfer, numbers: list[list[float | None]]) -> list[Pair]:
    """Returns all pairs of different data sets that have a number."""
    return [
        Pair(value, first, second)
        for first, row in zip(found.data, numbers, strict=True)
        for second, value in zip(found.data, row, strict=True)
        if first != second and value is not None
    ]


def to_html(tables: Tables) -> Markup:
    """Returns the table of best settings; nothing for a single data set."""
    best = best_settings(tables)
    return render("transfer.html", best=best, names=list(best[0].setting)) if len(best) > 1 else Markup()
