"""Several data sets: accuracy by head, how similarly they rank settings, and the cost of choosing on another."""

from typing import NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    Figure,
    View,
    axis_range,
    error_bars,
    levels,
    percentages,
    ramp,
    split,
    varied,
)
from harness.report.figures.lines import SYMBOLS
from harness.report.figures.probes import columns, highest, known
from harness.report.published import ADM, of_figure
from harness.report.tables import Tables, measure_of
from harness.report.transfer import transfer
from harness.report.words import label, plain

ALONE = Absent("All probes are on one data set; transfer needs at least two.")
# Part of a user's data set name that identifies one of the paper's data sets.
PUBLISHED_DATA = {
    "aircraft": "fgvc-aircraft",
    "cars": "stanford-cars",
    "cub": "cub-200",
    "dogs": "stanford-dogs",
    "flowers": "flowers-102",
    "nabirds": "nabirds",
}


class ByHead(NamedTuple):
    """A head's test accuracy in percent at its best setting on validation, by data set; None is missing."""

    head: str
    data: list[str]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]


def by_head(frame: pd.DataFrame) -> list[ByHead]:
    """Returns a series for each head."""
    data = levels(frame["data"])
    found = []
    for head in levels(frame["head"]):
        rows = highest(frame[frame["head"] == head], ["data"]).set_index("data").reindex(data)
        numbers = (percentages(rows[f"test_score{end}"]) for end in ("", "_low", "_high"))
        found.append(ByHead(plain(head), [str(name) for name in data], *numbers))
    return found


def published_by_head(data: list[str]) -> list[ByHead]:
    """Returns the published series, of heads and of rival networks, for data sets that are also the paper's."""
    names = {name: twin for name in data for part, twin in PUBLISHED_DATA.items() if part in name.lower()}
    rows = of_figure("transfer")
    rows = rows[rows["dataset"].isin(names.values())]
    nothing: list[float | None] = [None] * len(names)
    found = []
    for (backbone, head), part in rows.groupby(["backbone", "head"]):
        values = part.set_index("dataset")["value"]
        who = f"ADM, {head}" if backbone == ADM else f"{backbone}, {head}"
        found.append(
            ByHead(who, list(names), [float(values[twin]) for twin in names.values()], nothing, nothing)
        )
    return found


def draw_by_head(found: list[ByHead], published: list[ByHead], measure: str = "accuracy") -> Drawing:
    """Returns the marks of all heads side by side, data set by data set."""
    series = [
        (row, colour, SYMBOLS[i % len(SYMBOLS)], False) for i, (row, colour) in enumerate(_coloured(found))
    ]
    series += [(row, GREY, f"{SYMBOLS[i % len(SYMBOLS)]}-open", True) for i, row in enumerate(published)]
    traces = [
        {
            "type": "scatter",
            "x": [label(name) for name in row.data],
            "y": row.accuracy,
            "name": label(f"published: {row.head}" if old else f"head {row.head}"),
            "mode": "markers",
            "marker": {"color": colour, "symbol": symbol, "size": 9},
            "hovertemplate": "%{x}: <b>%{y:.2f} %</b>",
            **(
                {"meta": {"published": True}}
                if old
                else {"error_y": error_bars(row.accuracy, row.low, row.high)}
            ),
        }
        for row, colour, symbol, old in series
    ]
    ends = [value for row, *_ in series for values in (row.accuracy, row.low, row.high) for value in values]
    layout = {
        "xaxis": {"type": "category"},
        "yaxis": {"title": {"text": f"Test {measure} (%)"}, "range": axis_range(ends, 0, 100)},
        "scattermode": "group",
        "scattergap": 0.5,
    }
    return Drawing(traces, layout)


def _coloured(found: list[ByHead]) -> list[tuple[ByHead, str]]:
    return list(zip(found, ramp(len(found)), strict=True))


def draw_matrix(
    data: list[str], values: list[list[float | None]], title: str, span: tuple[float, float], axes: list[str]
) -> Drawing:
    """Returns a heatmap of data sets by data sets, its colours over `span`; `axes` names rows, then columns."""
    names = [label(name) for name in data]
    digits = 2 if span[1] <= 1 else 1
    hover = f"{axes[0].lower()} %{{y}}, {axes[1].lower()} %{{x}}: <b>%{{z:.{digits}f}}</b><extra></extra>"
    numbers = [["" if value is None else f"{value:.{digits}f}" for value in row] for row in values]
    heatmap = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": values,
        "text": numbers,
        "texttemplate": "%{text}",
        "hovertemplate": hover,
        "hoverongaps": False,
        "colorscale": "Viridis",
        "zmin": span[0],
        "zmax": span[1],
        "xgap": 2,
        "ygap": 2,
        "colorbar": {"title": {"text": title}},
    }
    xaxis, yaxis = (
        {"title": {"text": axis}, "type": "category", "showgrid": False} for axis in reversed(axes)
    )
    return Drawing([heatmap], {"height": max(300, 130 + 40 * len(data)), "xaxis": xaxis, "yaxis": yaxis})


def accuracy_views(tables: Tables) -> list[View] | Absent:
    """Draws one figure, or one for each backbone."""
    frame = known(tables, "trained").dropna(subset=["data", "head", "test_score"])
    if frame["data"].nunique() < 2:
        return ALONE
    return [
        View(choice, _by_head(rows)) for choice, rows in split(frame, varied(frame, columns(tables).setup))
    ]


def _by_head(rows: pd.DataFrame) -> Drawing:
    """Draws all heads, with the published ones on data sets that are judged by accuracy too."""
    alike = levels(rows[rows["measure"] == "accuracy"]["data"])
    return draw_by_head(by_head(rows), published_by_head(alike), measure_of(rows))


def rank_views(tables: Tables) -> list[View] | Absent:
    """Draws the rank correlations."""
    found = transfer(tables)
    if found is None:
        return ALONE
    if all(value is None for i, row in enumerate(found.correlation) for value in (*row[:i], *row[i + 1 :])):
        return Absent("No two data sets share enough settings for a rank correlation.")
    return [
        View(
            {},
            draw_matrix(found.data, found.correlation, "Spearman<br>correlation", (-1, 1), ["Data", "Data"]),
        )
    ]


def regret_views(tables: Tables) -> list[View] | Absent:
    """Draws the regret in points."""
    found = transfer(tables)
    if found is None:
        return ALONE
    values = [[None if value is None else 100 * value for value in row] for row in found.regret]
    most = max(1.5, *(value for row in values for value in row if value is not None))
    return [
        View({}, draw_matrix(found.data, values, "Regret<br>(points)", (0, most), ["Chosen on", "Used on"]))
    ]


ACCURACY = Figure(
    title="Transfer: {measure} by data set",
    reading="Each mark is one head at its best setting on that data set, selected on validation; the {measure} is on "
    "test, with its 95 % interval.",
    study="features",
    views=accuracy_views,
)
RANKS = Figure(
    title="Transfer: do data sets rank settings similarly?",
    reading="Spearman correlation of all settings' {measure} on validation: 1 means that both data sets rank "
    "settings identically, so a setting may be selected on the cheaper one.",
    study="features",
    views=rank_views,
)
REGRET = Figure(
    title="Transfer: what another data set's setting costs",
    reading="Validation {measure} lost, in points, when the column's data set uses the best setting of the row's "
    "data set instead of its own.",
    study="features",
    views=regret_views,
)
