"""Validation accuracy over pool, a line per head, each point the best block and timestep."""

import pandas as pd

from harness.report.figures.figure import Absent, Figure, View, levels, split, varied
from harness.report.figures.lines import Curve, Lines, controls, draw, highest, published_curve
from harness.report.figures.probes import NO_PROBES, columns, known
from harness.report.published import NAME, of_figure
from harness.report.tables import Tables, measure_of
from harness.report.words import plain


def best_over_pool(frame: pd.DataFrame, shown: pd.DataFrame, chosen: dict[str, str]) -> Lines:
    """Returns each head's best at each pool; controls come from all rows of `frame`."""
    curves = [
        highest(f"head {plain(head)}", shown[shown["head"] == head], "pool") for head in levels(shown["head"])
    ]
    places = sorted({place for curve in curves for place in curve.x})
    measure = measure_of(shown)
    published = beside(shown) if measure == "accuracy" else []
    return Lines(curves, controls(frame, chosen, "pool", places), published, measure)


def beside(shown: pd.DataFrame) -> list[Curve]:
    """Returns the published lines (linear) at the paper's two settings, where a linear head was measured."""
    if not (shown["head"] == "linear").any():
        return []
    return [
        published_curve(f"{NAME}, block {plain(block)}, t {plain(timestep)}", rows, "pool")
        for (block, timestep), rows in of_figure("pool").groupby(["block", "timestep"])
    ]


def views(tables: Tables) -> list[View] | Absent:
    """Draws one figure, or one for each data set and backbone."""
    frame = known(tables)
    shown = frame[frame["features"] == "trained"].dropna(subset=["pool", "head"])
    if shown.empty:
        return Absent(NO_PROBES)
    if shown["pool"].nunique() < 2 and shown["head"].nunique() < 2:
        return Absent("All probes use the same pool and head, so there is nothing to compare.")
    return [
        View(choice, draw(best_over_pool(frame[frame["data"].isin(rows["data"])], rows, choice), "pool"))
        for choice, rows in split(shown, varied(shown, columns(tables).what))
    ]


FIGURE = Figure(
    title="{Measure} over pool and head",
    reading="Each point is the best block and timestep for that pool and head; where the lines "
    "coincide, the cheaper head or the smaller pool is sufficient.",
    study="features",
    views=views,
)
