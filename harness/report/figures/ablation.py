"""Best, mean and median test accuracy of originals, ensemble and generated networks over every varied setting."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    split,
    succeeded,
    varied,
)
from harness.report.figures.kinds import marks
from harness.report.published.parameter_diffusion import (
    ABLATED,
    EDITIONS,
    LOCATIONS,
    is_ablated,
    of_figure,
    same_location,
    same_network,
)
from harness.report.setups import RUNS, axes, columns_of, measured, rank, setup, telling
from harness.report.tables import Tables
from harness.report.words import label, plain

STATISTICS = {"best": "solid", "mean": "dash", "median": "dot"}
TITLES = {  # of axes, in the order in which they are offered; others follow under their own name
    "k": "K",
    "subset": "subset of the originals",
    "parameters": "location",
    "noise": "noise in the autoencoder",
    "diffusion_steps": "diffusion steps",
    "latent": "latent size",
    "optimizer": "optimizer of the originals",
    "sampler": "sampler",
    "sampling_steps": "sampling steps",
    "buffers": "buffers",
    "preset": "preset",
    "varied": "other settings",
    "network": "network",
    "data": "data set",
}
AXIS_TITLES = {"k": "K (original checkpoints)"}
SYMBOLS = dict(zip(EDITIONS.values(), ("circle-open", "square-open"), strict=True))


class Track(NamedTuple):
    """One line over the values of an axis: accuracies in percent with their 95 % intervals; None is missing."""

    kind: str
    statistic: str
    places: list[str]
    accuracy: list[float | None]
    low: list[float | None]
    high: list[float | None]
    runs: list[int]


class Ablation(NamedTuple):
    """The lines of one figure; published ones are shown at once only for the paper's data set and network."""

    axis: str
    tracks: list[Track]
    published: list[Track]
    same: bool


def tracks(frame: pd.DataFrame, axis: str) -> list[Track]:
    """Returns the lines of one setup along `axis`; runs that differ in nothing else are averaged."""
    groups = [(plain(value), rows) for value, rows in ordered(frame, axis)]
    found = []
    for kind, statistic in [
        *(("original", statistic) for statistic in STATISTICS),
        ("ensemble", "best"),
        *(("generated", statistic) for statistic in STATISTICS),
    ]:
        column = "ensemble_accuracy" if kind == "ensemble" else f"{kind}_{statistic}_accuracy"
        means = [measured(rows, column) for _, rows in groups]
        value, low, high = (percentages(column) for column in columns_of(means))
        if any(one is not None for one in value):
            places = [place for place, _ in groups]
            found.append(Track(kind, statistic, places, value, low, high, [mean.runs for mean in means]))
    return found


def ordered(frame: pd.DataFrame, axis: str) -> list[tuple[Any, pd.DataFrame]]:
    """Returns the rows of each value of an axis, in the axis's order; missing values come last."""
    values = levels(frame[axis])
    ranks = rank(frame, axis)
    if ranks is not None:
        values.sort(key=ranks.groupby(frame[axis]).min().to_dict().__getitem__)
    groups = [(value, frame[frame[axis] == value]) for value in values]
    missing = frame[frame[axis].isna()]
    return groups + ([(None, missing)] if len(missing) else [])


def published_tracks(axis: str, frame: pd.DataFrame) -> list[Track]:
    """Returns the paper's lines along K, location or noise, places named as in `frame`; nothing for other axes."""
    found: list[Track] = []
    name = {"k": "K", "parameters": "location", "noise": "noise"}.get(axis)
    if name is None or (axis == "parameters" and not _paper_s_network(frame)):
        return found
    place = _places(axis, frame)
    for edition, preset in EDITIONS.items():
        rows = of_figure(name, edition=edition)
        rows = rows.assign(place=rows["setting"].map(place)).dropna(subset=["place"])
        for statistic in STATISTICS:
            part = rows[rows["statistic"] == statistic]
            if len(part):
                nothing: list[float | None] = [None] * len(part)
                values: list[float | None] = part["value"].tolist()
                runs = [0] * len(part)
                found.append(Track(preset, statistic, part["place"].tolist(), values, nothing, nothing, runs))
    return found


def _paper_s_network(frame: pd.DataFrame) -> bool:
    return all(same_network(name) == ABLATED[1] for name in frame["network"].unique())


def _places(axis: str, frame: pd.DataFrame) -> Callable[[str], str | None]:
    """Returns a function from a published setting to its place on the axis, None if it has none."""
    if axis == "k":
        return lambda setting: setting.removeprefix("K=") if setting.startswith("K=") else None
    if axis == "noise":
        cases = (
            frame.dropna(subset=["noise"]).sort_values("noise", kind="stable").drop_duplicates("noise_case")
        )
        names = dict(zip(cases["noise_case"], cases["noise"], strict=True))
        return lambda setting: names.get(setting, setting)
    here = [plain(value) for value in levels(frame[axis])]
    known = {same_location(place): place for place in here}

    def location(setting: str) -> str:
        found = next((one for one in LOCATIONS if one in setting), setting)
        return known.get(found, found)

    return location


def draw(numbers: Ablation) -> Drawing:
    """Returns the figure; points at one place are drawn side by side, so that intervals can be read."""
    colours = marks([(track.kind, None) for track in numbers.tracks])
    traces = []
    for track, mark in zip(numbers.tracks, colours, strict=True):
        best = track.statistic == "best"
        name = track.kind if track.kind == "ensemble" else f"{track.kind}, {track.statistic}"
        line = {"color": mark.colour, "dash": STATISTICS[track.statistic], "width": 2.5 if best else 1.5}
        marker = {"color": mark.colour, "symbol": mark.symbol, "size": 8 if best else 5}
        traces.append(
            _trace(track, name, line, marker)
            | {
                "error_y": error_bars(track.accuracy, track.low, track.high),
                "customdata": [f"{runs} runs" if runs > 1 else "one run" for runs in track.runs],
                "hovertemplate": "%{x}: <b>%{y:.2f} %</b>, %{customdata}",
            }
        )
    for track in numbers.published:
        marker = {"color": GREY, "symbol": SYMBOLS[track.kind], "size": 9}
        line = {"color": GREY, "dash": STATISTICS[track.statistic], "width": 1}
        trace = _trace(track, f"published: {track.kind}, {track.statistic}", line, marker)
        trace |= {"meta": {"published": True}, "hovertemplate": "%{x}: <b>%{y:.1f} %</b>"}
        traces.append(trace | ({} if numbers.same else {"visible": "legendonly"}))
    shown = [*numbers.tracks, *(numbers.published if numbers.same else [])]
    ends = [
        value for track in shown for values in (track.accuracy, track.low, track.high) for value in values
    ]
    title = AXIS_TITLES.get(numbers.axis, _title(numbers.axis).capitalize())
    places = list(dict.fromkeys(label(place) for track in shown for place in track.places))
    if numbers.axis == "k":
        places.sort(key=lambda place: (not place.isdigit(), int(place) if place.isdigit() else 0))
    xaxis = {"title": {"text": title}, "type": "category", "categoryorder": "array", "categoryarray": places}
    yaxis = {"title": {"text": "Test accuracy (%)"}, "range": axis_range(ends, 0, 100)}
    layout = {"xaxis": xaxis, "yaxis": yaxis, "scattermode": "group", "scattergap": 0.6, "height": 420}
    return Drawing(traces, layout)


def _title(axis: str) -> str:
    return TITLES.get(axis, axis.replace("_", " "))


def _trace(track: Track, name: str, line: dict[str, Any], marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [label(place) for place in track.places],
        "y": track.accuracy,
        "name": name,
        "mode": "lines+markers",
        "line": line,
        "marker": marker,
    }


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure for each axis that varies and each choice of the others; seeds and generators are averaged."""
    frame = succeeded(tables.weights)
    bests = ["original_best_accuracy", "generated_best_accuracy", "ensemble_accuracy"]
    if frame[bests].notna().sum().sum() == 0:
        return Absent("No trial has the accuracy of original or generated networks.")
    declared = tables.declared["weights"]
    columns = [*setup(declared), "k", *axes(declared)]
    swept = telling(frame, columns)
    if not swept:
        same = "seed and run of the generator" if varied(frame, RUNS) else "setup"
        return Absent(f"Only the {same} varies; see the table above.")
    accuracies = [name for name in frame.columns if "_accuracy" in name]
    frame = frame[
        [*columns, "parameter_count", "noise_case", *RUNS, *accuracies]
    ]  # each further one costs at every selection
    drawn: list[tuple[str, dict[str, str], pd.DataFrame]] = []
    for axis in sorted(swept, key=lambda axis: [*TITLES, axis].index(axis)):
        others = [column for column in columns if column != axis]
        for choice, rows in split(frame, telling(frame, others, [axis])):
            if rows[axis].nunique(dropna=False) > 1:
                drawn.append((axis, choice, rows))
    if not drawn:
        return Absent("No two trials differ in exactly one setting, so there is no ablation to draw.")
    names = [column for column in columns if any(column in choice for _, choice, _ in drawn)]
    return [
        View({"axis": _title(axis), **{name: choice.get(name) for name in names}}, draw(ablation(axis, rows)))
        for axis, choice, rows in drawn
    ]


def ablation(axis: str, frame: pd.DataFrame) -> Ablation:
    """Returns the numbers of one figure."""
    pairs = frame[["data", "network"]].drop_duplicates().itertuples(index=False)
    same = all(is_ablated(data, network) for data, network in pairs)
    return Ablation(axis, tracks(frame, axis), published_tracks(axis, frame), same)


FIGURE = Figure(
    title="What matters: accuracy over each setting",
    reading="Solid lines follow the best network, selected on validation. Intervals are of one network's accuracy "
    "where there is one run, else Student's t over seeds or runs of the generator; where they overlap widely, the "
    "difference may be noise. Published lines for another data set or network start hidden: click a legend entry "
    "to show one, double-click the plot to rescale it.",
    study="weights",
    views=views,
)
