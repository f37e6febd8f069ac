"""Study 1 on several data sets: each one's best setting, rank correlations, what another's choice costs."""

from typing import Any, NamedTuple

import pandas as pd
from scipy.stats import spearmanr

from harness.report.figures.figure import levels, split, varied
from harness.report.figures.probes import AXES, WHAT, known
from harness.report.tables import Tables, best_row
from harness.report.words import (
    Estimate,
    decimal,
    escape,
    estimate,
    heads,
    interval,
    number,
    percent,
    points,
    several,
    table,
    value_cell,
)

SETTING = (*WHAT[1:], *AXES)
LEAST_SHARED = 3  # settings measured on both data sets, below which a rank correlation says nothing


class Best(NamedTuple):
    """A data set's best setting on validation."""

    data: str
    setting: dict[str, Any]
    candidates: int
    validation: Estimate
    test: Estimate


class Transfer(NamedTuple):
    """Data sets against data sets; None where too few settings were measured on both."""

    data: list[str]
    correlation: list[list[float | None]]  # Spearman's, of validation accuracies over the shared settings
    regret: list[list[float | None]]  # [chosen on][used on]: accuracy lost on validation, 0 to 1


def best_settings(tables: Tables) -> list[Best]:
    """Returns each data set's best setting on the trained backbone's features, in the order of names."""
    frame = known(tables, "trained").dropna(subset=["data"])
    names = [*varied(frame, WHAT[1:]), *AXES]
    found = []
    for choice, rows in split(frame, ["data"]) if len(frame) else ():
        row = best_row(rows, "validation_accuracy")
        test, validation = estimate(row, "test_accuracy"), estimate(row, "validation_accuracy")
        found.append(Best(choice["data"], {name: row[name] for name in names}, len(rows), validation, test))
    return found


def transfer(tables: Tables) -> Transfer | None:
    """Returns how settings transfer, None where there is one data set alone; seeds of a setting are averaged."""
    frame = known(tables, "trained").dropna(subset=["data", *AXES])
    data = levels(frame["data"])
    if len(data) < 2:
        return None
    wide = frame.groupby([*SETTING, "data"], dropna=False)["validation_accuracy"].mean().unstack("data")[data]
    return Transfer(
        [str(name) for name in data],
        [[_rank_correlation(wide[one], wide[other]) for other in data] for one in data],
        [
            [number(wide[used].max() - wide.loc[wide[chosen].idxmax(), used]) for used in data]
            for chosen in data
        ],
    )


def _rank_correlation(one: pd.Series, other: pd.Series) -> float | None:
    """Returns Spearman's of the settings that both have; None where they are few or a side is constant."""
    shared = pd.DataFrame({"one": one, "other": other}).dropna()
    if len(shared) < LEAST_SHARED or shared.nunique().min() < 2:
        return None
    return float(spearmanr(shared["one"], shared["other"]).statistic)


def sentence(tables: Tables) -> str:
    """Returns what the data sets say together, as a paragraph; nothing for one data set alone."""
    found = transfer(tables)
    if found is None:
        return ""
    count = len(found.data)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    lost = [(value, i, j) for i, j in pairs if (value := found.regret[i][j]) is not None]
    alike = [(value, i, j) for i, j in pairs if i < j and (value := found.correlation[i][j]) is not None]
    names = [escape(name) for name in found.data]
    text = f"<strong>Transfer between {count} data sets.</strong> "
    if alike:
        value, i, j = min(alike)
        text += f"Settings rank least alike on {names[i]} and {names[j]} (Spearman {decimal(value, 2)}). "
    if not lost:
        return f"<p>{text}No best setting of one was measured on another, so what it would cost there is open.</p>"
    value, i, j = max(lost)
    if value == 0:
        return f"<p>{text}The best setting of each is the best of all others where it was measured.</p>"
    return (
        f"<p>{text}The best setting of one used on another costs {points(value)[1:]} at most on validation (that of "
        f"{names[i]} on {names[j]}), {points(sum(v for v, _, _ in lost) / len(lost))[1:]} on average.</p>"
    )


def to_html(tables: Tables) -> str:
    """Returns the table of best settings; nothing for one data set alone."""
    best = best_settings(tables)
    if len(best) < 2:
        return ""
    names = list(best[0].setting)
    rows = [
        f'<th scope="row">{escape(one.data)}</th>'
        + "".join(value_cell(one.setting[name]) for name in names)
        + f"<td>{percent(one.validation.value)}</td><td><strong>{percent(one.test.value)}</strong>"
        + f"<small>{interval(one.test)}</small></td><td>{one.candidates:,}</td>"
        for one in best
    ]
    titles = ["Data", *(name.capitalize() for name in names), "Validation", "Test", "Chosen from"]
    caption = f"The best setting of each of {several(len(best), 'data set')}, chosen on validation"
    return table(caption, heads(titles, words=("Data", "Backbone", "Regulariser", "Way", "Head")), rows)
