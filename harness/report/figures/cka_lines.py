"""CKA along one axis: over timestep with a network, over block between pools."""

from typing import Any, NamedTuple

import pandas as pd

from harness.report.figures.cka import (
    BACKBONE,
    TIMESTEP_TITLE,
    both_ways,
    of_blocks,
    of_encoders,
    of_timesteps,
    pairs,
)
from harness.report.figures.figure import (
    Absent,
    Drawing,
    Figure,
    View,
    axis_range,
    levels,
    ramp,
    split,
    varied,
)
from harness.report.figures.lines import AXIS_TITLES, MOST_NAMED, SYMBOLS
from harness.report.tables import Tables
from harness.report.words import label, plain


class Line(NamedTuple):
    """CKA along an axis."""

    name: str
    x: list[float]
    cka: list[float]


def lines(frame: pd.DataFrame, x: str, by: str, prefix: str) -> list[Line]:
    """Returns a line along column `x` for each value of `by`; repeats, such as seeds, are averaged."""
    found = []
    for value in levels(frame[by]):
        mean = frame[frame[by] == value].groupby(x)["cka"].mean()
        found.append(Line(f"{prefix} {plain(value)}", [float(place) for place in mean.index], mean.tolist()))
    return found


def draw(found: list[Line], x_title: str) -> Drawing:
    """Returns the lines, from blue to orange in their order."""
    step = -(-len(found) // MOST_NAMED)
    traces: list[dict[str, Any]] = []
    for i, (line, colour) in enumerate(zip(found, ramp(len(found)), strict=True)):
        traces.append(
            {
                "type": "scatter",
                "x": line.x,
                "y": line.cka,
                "name": label(line.name),
                "mode": "lines+markers" if step == 1 else "lines",
                "showlegend": i % step == 0,  # of many, some show the order, and pointing names the rest
                "line": {"color": colour, "width": 1.2 if step > 1 else 2},
                "marker": {"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)]},
                "hovertemplate": "%{x}: <b>%{y:.3f}</b>",
            }
        )
    ends = axis_range([0.0, 1.0, *(value for line in found for value in line.cka)], -1, 1)
    return Drawing(
        traces,
        {
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": "CKA"}, "range": ends},  # the same in all views, to compare them
            "showlegend": True,
        },
    )


def with_others(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns what each block is compared with at every timestep, named in the column `with`.

    That is an encoder's layer, the same block of another backbone, or the block itself at the least noise.
    """
    encoders = of_encoders(frame)
    layer = encoders["b_block_name"].map(plain)
    encoders = encoders.assign(**{"with": encoders["b_model"] + ": " + layer})
    blocks = of_blocks(frame)
    blocks = blocks[(blocks["a_block"] == blocks["b_block"]) & (blocks["b_model"] != BACKBONE)]
    blocks = blocks.assign(**{"with": blocks["b_model"] + ": same block"})
    itself = both_ways(of_timesteps(frame))
    itself = itself[itself["b_timestep"] == itself["b_timestep"].min()]
    itself = itself.assign(**{"with": f"itself at t = {plain(itself['b_timestep'].min())}"})
    return pd.concat([part for part in (itself, blocks, encoders) if not part.empty] or [frame.iloc[:0]])


def timestep_views(tables: Tables) -> list[View] | Absent:
    """Draws a line per block for everything that blocks are compared with, and for each pool."""
    frame = with_others(pairs(tables))
    if frame["a_timestep"].nunique() < 2:
        return Absent("No block was compared at two timesteps or more.")
    frame = frame.assign(pool=frame["a_pool"])
    return [
        View(choice, draw(lines(rows, "a_timestep", "a_block", "block"), TIMESTEP_TITLE))
        for choice, rows in split(frame, [*varied(frame, ["data"]), "with", "pool"])
    ]


def of_pools(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the pairs of one block at two pools, named in the column `pools`, the smaller first."""
    own = (frame["a_model"] == BACKBONE) & (frame["b_model"] == BACKBONE)
    same = (frame["a_block"] == frame["b_block"]) & (frame["a_timestep"] == frame["b_timestep"])
    chosen = frame[own & same & (frame["a_pool"] != frame["b_pool"])]
    ends = chosen[["a_pool", "b_pool"]]
    names = [
        f"{plain(low)} and {plain(high)}"
        for low, high in zip(ends.min(axis=1), ends.max(axis=1), strict=True)
    ]
    return chosen.assign(pools=pd.Series(names, chosen.index, dtype=object), timestep=chosen["a_timestep"])


def pool_views(tables: Tables) -> list[View] | Absent:
    """Draws a line per pair of pools for each timestep."""
    frame = of_pools(pairs(tables))
    if frame.empty:
        return Absent("No block was compared across pools.")
    return [
        View(choice, draw(lines(rows, "a_block", "pools", "pools"), AXIS_TITLES["block"]))
        for choice, rows in split(frame, [*varied(frame, ["data"]), "timestep"])
    ]


OVER_TIMESTEP = Figure(
    title="CKA over timestep",
    reading="A line is one block, from blue (near the input) to orange (near the output): how similar it stays, as "
    "noise grows, to the layer or the noise level that is chosen.",
    study="cka",
    views=timestep_views,
)
POOLS = Figure(
    title="CKA across pools",
    reading="A line is a pair of pools: where it is near 1, the larger pool adds little to the smaller.",
    study="cka",
    views=pool_views,
)
