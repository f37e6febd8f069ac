"""Samples to look at, and how well networks recognise and generate."""

from typing import Any, NamedTuple

from harness.core.tables import Role
from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    Figure,
    View,
    axis_range,
    percentages,
    ramp,
    split,
    succeeded,
    varied,
)
from harness.report.pictures import Sheet, sheet
from harness.report.tables import Tables
from harness.report.unified import Learner, learners
from harness.report.words import label, plain

SHEET_HEIGHT = 540  # CSS pixels
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")


class Point(NamedTuple):
    """One network: accuracies in percent."""

    name: str
    frechet: float
    accuracy: float
    low: float | None
    high: float | None


class Beside(NamedTuple):
    """Networks on one data set, their samples as one encoder sees them."""

    encoder: str
    points: list[Point]
    real: float | None  # the distance of held-out images, where it is known
    measure: str = "accuracy"


def sheets(tables: Tables) -> list[tuple[dict[str, str], Sheet]]:
    """Returns one picture per set of samples; all encoders see the same samples."""
    frame = succeeded(tables.generation)
    frame = frame.assign(sheet=frame["grid"].map(sheet)).dropna(subset=["sheet"])
    setup = tables.declared["generation"].names(Role.SETUP)
    names = ["data", *varied(frame, [*setup, "seed"])] if len(frame) else []
    return [(choice, rows["sheet"].iloc[0]) for choice, rows in split(frame, names)] if len(frame) else []


def draw_sheet(numbers: Sheet) -> Drawing:
    """Returns the picture in a plot without axes."""
    image = {
        "source": f"data:image/png;base64,{numbers.picture}",
        "xref": "x",
        "yref": "y",
        "x": 0,
        "y": 0,
        "sizex": numbers.width,
        "sizey": numbers.height,
        "yanchor": "top",
        "layer": "above",
    }
    corners = {
        "type": "scatter",
        "x": [0, numbers.width],
        "y": [0, numbers.height],
        "mode": "markers",
        "marker": {"opacity": 0},
        "hoverinfo": "skip",
    }
    hidden = {"visible": False, "constrain": "domain"}
    layout = {
        "images": [image],
        "xaxis": {**hidden, "range": [0, numbers.width]},
        "yaxis": {**hidden, "range": [numbers.height, 0], "scaleanchor": "x"},
        "height": SHEET_HEIGHT,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    }
    return Drawing([corners], layout)


def sample_views(tables: Tables) -> list[View] | Absent:
    """Shows one set of samples at a time."""
    found = [View(choice, draw_sheet(picture)) for choice, picture in sheets(tables)]
    return found or Absent("No trial stored a picture of its samples.")


def beside(tables: Tables) -> list[tuple[dict[str, str], Beside]]:
    """Returns the networks that have both an accuracy and a distance, by data set and encoder."""
    found: dict[tuple[str, str], list[Point]] = {}
    references: dict[tuple[str, str], float] = {}
    measures: dict[tuple[str, str], str] = {}
    for one in sorted(learners(tables), key=lambda one: plain(one.network["regulariser"]) != "none"):
        for distance in one.distances:
            if distance.frechet is None or one.accuracy.value is None:
                continue
            place = (plain(one.network["data"]), distance.encoder)
            (accuracy, low, high) = percentages([one.accuracy.value, one.accuracy.low, one.accuracy.high])
            if accuracy is not None:
                measures[place] = one.measure  # one data set has one
                found.setdefault(place, []).append(Point(_name(one), distance.frechet, accuracy, low, high))
            if distance.real is not None:
                references.setdefault(place, distance.real)
    return [
        (
            {"data": data, "encoder": encoder},
            Beside(encoder, points, references.get((data, encoder)), measures[data, encoder]),
        )
        for (data, encoder), points in sorted(found.items())
        if len({point.name for point in points}) > 1
    ]


def _name(one: Learner) -> str:
    regulariser = plain(one.network["regulariser"])
    extra = "" if regulariser == "none" else f", {regulariser}"
    return f"{plain(one.network['backbone'])}{extra}"


def draw_beside(numbers: Beside) -> Drawing:
    """Returns one point per network: better is up and to the left."""
    names = list(dict.fromkeys(point.name for point in numbers.points))
    traces: list[dict[str, Any]] = []
    for i, (name, colour) in enumerate(zip(names, ramp(len(names)), strict=True)):
        points = [point for point in numbers.points if point.name == name]
        traces.append(
            {
                "type": "scatter",
                "x": [round(point.frechet, 4) for point in points],
                "y": [point.accuracy for point in points],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [(point.high or point.accuracy) - point.accuracy for point in points],
                    "arrayminus": [
                        point.accuracy - (point.accuracy if point.low is None else point.low)
                        for point in points
                    ],
                },
                "name": label(name),
                "mode": "markers",
                "marker": {"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 11},
                "hovertemplate": "Fréchet %{x:.4g}: <b>%{y:.2f} %</b>",
            }
        )
    if numbers.real is not None:
        ends = [one for point in numbers.points for one in (point.accuracy, point.low, point.high) if one]
        traces.append(
            {
                "type": "scatter",
                "x": [numbers.real, numbers.real],
                "y": [min(ends), max(ends)],
                "name": "held-out images",
                "mode": "lines",
                "line": {"color": GREY, "dash": "dash"},
                "hovertemplate": "as many held-out images: %{x:.4g}",
            }
        )
    shown = [*(point.frechet for point in numbers.points), *([numbers.real] if numbers.real else [])]
    layout = {
        "xaxis": {
            "title": {"text": "Fréchet distance (lower is better)"},
            "range": axis_range(shown, 0.0, max(shown)),
        },
        "yaxis": {"title": {"text": f"Test {numbers.measure} of the best probe (%)"}},
    }
    return Drawing(traces, layout)


def beside_views(tables: Tables) -> list[View] | Absent:
    """Draws the networks for each data set and encoder."""
    found = [View(choice, draw_beside(numbers)) for choice, numbers in beside(tables)]
    return found or Absent("The comparison needs two networks with both a probe's accuracy and samples.")


SAMPLES = Figure(
    title="Samples",
    reading="The first samples drawn, not the best; all backbones start from the same noise.",
    study="generation",
    views=sample_views,
)
BESIDE = Figure(
    title="Recognition beside generation",
    reading="Each point is one network, its probe selected on validation, with the 95 % interval on test; higher "
    "means better features, further left means better samples.",
    study="generation",
    views=beside_views,
)
