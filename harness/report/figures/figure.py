"""What a figure is: rows → a NamedTuple of numbers → Plotly figures, one for each choice of the reader."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from harness.report.tables import Tables
from harness.report.words import plain

CHOICE_NAMES = {"k": "K", "data": "Data", "pool": "Pool", "head": "Head", "axis": "X axis"}
CHOICE_NAMES |= {"latent": "Latent size", "varied": "Other settings", "space": "Map of"}
CHOICE_NAMES |= {"generator": "Generator run", "after": "Read after"}
# From clean to noisy, from shallow to deep: distinguishable for colour-blind readers, on white and on black.
RAMP = ((47, 120, 214), (150, 104, 176), (226, 120, 40))
GREY = "#85888d"


class Drawing(NamedTuple):
    """A Plotly figure as plain values: `plotly.graph_objects.Figure` takes milliseconds a trace to check them."""

    data: list[dict[str, Any]]  # traces, each with its "type"
    layout: dict[str, Any]

    def to_plotly_json(self) -> dict[str, Any]:
        """Returns what `plotly.graph_objects.Figure.to_plotly_json` would."""
        return {"data": self.data, "layout": dict(self.layout)}


class View(NamedTuple):
    """One Plotly figure and the choices that show it, such as {"pool": "2", "head": "linear"}.

    A choice of None is one that does not apply to this figure: it is shown whatever the reader picks.
    """

    choice: Mapping[str, str | None]
    figure: Any  # a Drawing or a plotly.graph_objects.Figure


class Absent(NamedTuple):
    """Why there is nothing to draw, as a sentence."""

    why: str


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    `views` is called once, with all rows of the experiment. It returns one view for each choice, all with
    the same choice names, or says why the rows are insufficient, for example because every trial failed. It does not
    change the rows, and draws missing values as None, never NaN. Users' strings go into a plot through
    `words.label`, because Plotly reads most of its texts as HTML.

    In `title` and `reading`, {measure} stands for what study 1's classifiers are judged by, "accuracy" or "mAP", and
    {Measure} for the same at the beginning of a sentence.
    """

    title: str
    reading: str  # one sentence: how to read it
    study: (
        str  # its section: a key of `harness.report.sections.SECTIONS`, or the name of another study's table
    )
    views: Callable[[Tables], list[View] | Absent]


def worded(text: str, measure: str) -> str:
    """Returns a title or a reading with what its results are, "accuracy" or "mAP", in the place of "{measure}"."""
    capital = measure if measure.startswith("mAP") else measure[0].upper() + measure[1:]
    return text.replace("{Measure}", capital).replace("{measure}", measure)


def succeeded(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of trials that did not fail."""
    return frame[frame["status"] == "ok"]


def varied(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Returns those of `columns` that take several values, missing being one."""
    return [column for column in columns if frame[column].nunique(dropna=False) > 1]


def split(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yields the rows of each combination of values of `columns` that occurs, in order of the values."""
    if not columns:
        yield {}, frame
        return
    for values, rows in frame.groupby(list(columns), dropna=False, sort=True):
        yield {name: plain(value) for name, value in zip(columns, values, strict=True)}, rows


def levels(column: pd.Series) -> list[Any]:
    """Returns the values of an axis in order, without missing ones."""
    return sorted(column.dropna().unique().tolist())


def percentages(values: Sequence[float | None] | pd.Series) -> list[float | None]:
    """Returns accuracies in percent, rounded to what a plot can show; missing values stay None."""
    return [None if value is None or value != value else round(100 * float(value), 3) for value in values]


def axis_range(values: Iterable[float | None], least: float, most: float) -> list[float] | None:
    """Returns the ends of an axis with some room around the values, within the values that are possible."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    low, high = min(known), max(known)
    room = 0.06 * (high - low) or 0.02 * (most - least)
    return [max(low - room, least - 0.02 * (most - least)), min(high + room, most + 0.02 * (most - least))]


def error_bars(
    value: Sequence[float | None], low: Sequence[float | None], high: Sequence[float | None]
) -> dict[str, Any]:
    """Returns a trace's `error_y`: bars from `low` to `high`, none if an end is missing."""

    def lengths(ends: Sequence[float | None]) -> list[float | None]:
        pairs = zip(ends, value, strict=True)
        return [None if end is None or at is None else abs(end - at) for end, at in pairs]

    above, below = lengths(high), lengths(low)
    visible = any(length is not None for length in (*above, *below))  # else Plotly draws bars of no length
    return {
        "type": "data",
        "array": above,
        "arrayminus": below,
        "thickness": 1,
        "width": 3,
        "visible": visible,
    }


def ramp(count: int) -> list[str]:
    """Returns `count` colours for the values of an ordered axis."""
    colours = []
    for i in range(count):
        place = 0.5 if count == 1 else i / (count - 1)
        low, high = (RAMP[0], RAMP[1]) if place < 0.5 else (RAMP[1], RAMP[2])
        share = 2 * place - (place >= 0.5)
        rgb = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
        colours.append(f"rgb({','.join(map(str, rgb))})")
    return colours


def choice_title(name: str) -> str:
    """Returns the name of a choice as shown by its control."""
    return CHOICE_NAMES.get(name, name.replace("_", " ").capitalize())
