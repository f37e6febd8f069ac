"""Validation accuracy over block and timestep, for one pool and head at a time."""

from typing import Any, NamedTuple

import pandas as pd

from harness.report.figures.figure import (
    GREY,
    Absent,
    Drawing,
    Figure,
    View,
    levels,
    percentages,
    split,
    succeeded,
    varied,
)
from harness.report.figures.probes import columns
from harness.report.tables import Tables, measure_of
from harness.report.words import label, plain

MOST_NUMBERED = 12  # columns or rows up to which cells have room for a number


class Grid(NamedTuple):
    """Accuracies in percent, (blocks, timesteps); None where there is no number."""

    blocks: list[int]
    block_names: list[str]
    timesteps: list[int]
    accuracy: list[list[float | None]]
    failed: list[tuple[int, int]]  # (block, timestep) of failed trials without a success
    measure: str = "accuracy"


def grid(frame: pd.DataFrame) -> Grid:
    """Returns the grid of one choice's rows, failed ones included; repeats, such as seeds, are averaged."""
    frame = frame.dropna(subset=["block", "timestep"])
    blocks, timesteps = levels(frame["block"]), levels(frame["timestep"])
    mean = succeeded(frame).pivot_table(
        index="block", columns="timestep", values="validation_score", aggfunc="mean"
    )
    accuracy = mean.reindex(index=blocks, columns=timesteps)
    known = accuracy.notna()
    names = frame.dropna(subset=["block_name"]).groupby("block")["block_name"].first()
    broken = frame[frame["status"] != "ok"][["block", "timestep"]].drop_duplicates()
    pairs = [(int(block), int(timestep)) for block, timestep in broken.itertuples(index=False)]
    return Grid(
        blocks=[int(block) for block in blocks],
        block_names=[plain(names.get(block, "")) for block in blocks],
        timesteps=[int(timestep) for timestep in timesteps],
        accuracy=[percentages(row) for row in accuracy.to_numpy(float).tolist()],
        failed=[pair for pair in pairs if not known.loc[pair]],
        measure=measure_of(frame),
    )


def draw(cells: Grid, low: float, high: float) -> Drawing:
    """Returns the heatmap of a grid, its colours running from `low` to `high` percent."""
    known = [value for row in cells.accuracy for value in row if value is not None]
    best = max(known, default=None)
    numbered = max(len(cells.timesteps), len(cells.blocks)) <= MOST_NUMBERED
    text = [
        ["" if v is None else f"<b>{v:.1f}</b>" if v == best else f"{v:.1f}" for v in row]
        for row in cells.accuracy
    ]
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": [str(timestep) for timestep in cells.timesteps],
            "y": [str(block) for block in cells.blocks],
            "z": cells.accuracy,
            "zmin": low,
            "zmax": high,
            "text": text,
            **({"texttemplate": "%{text}"} if numbered else {}),
            "customdata": [[label(name)] * len(cells.timesteps) for name in cells.block_names],
            "hovertemplate": "block %{y} · %{customdata}<br>timestep %{x}<br><b>%{z:.2f} %</b><extra></extra>",
            "hoverongaps": False,
            "colorscale": "Viridis",
            "xgap": 2 if numbered else 0.5,
            "ygap": 2 if numbered else 0.5,
            "colorbar": {"title": {"text": f"Validation<br>{cells.measure} (%)"}},
        }
    ]
    if cells.failed:
        traces.append(
            {
                "type": "scatter",
                "x": [str(timestep) for _, timestep in cells.failed],
                "y": [str(block) for block, _ in cells.failed],
                "mode": "markers",
                "marker": {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": GREY}},
                "hovertemplate": "block %{y}, timestep %{x}: failed<extra></extra>",
                "showlegend": False,
            }
        )
    return Drawing(
        traces,
        {
            "height": max(300, 130 + (32 if numbered else 20) * len(cells.blocks)),
            "xaxis": {
                "title": {"text": "Timestep (0 is least noise)"},
                "type": "category",
                "showgrid": False,
            },
            "yaxis": {"title": {"text": "Block (from the input)"}, "type": "category", "showgrid": False},
        },
    )


def views(tables: Tables) -> list[View] | Absent:
    """Draws a grid for each pool and head; features, data and backbone are choices where they vary."""
    frame = tables.features[tables.features["features"] != "pixels"].dropna(subset=["block", "timestep"])
    if succeeded(frame)["validation_score"].notna().sum() == 0:
        return Absent("No probe on a block's features has a validation accuracy.")
    scales = ["features", "data"]  # one colour scale for all pools and heads, so that they can be compared
    drawn = []
    ways = varied(frame.dropna(subset=["caching"]), ["caching"])  # fine-tuned backbones have none
    what = [name for name in columns(tables).what if name != "caching"]
    for choice, rows in split(frame, [*varied(frame, what), *ways, "features", "pool", "head"]):
        same_scale = frame[(frame[scales] == rows[scales].iloc[0]).all(axis=1)]["validation_score"]
        drawn.append(View(choice, draw(grid(rows), 100 * same_scale.min(), 100 * same_scale.max())))
    return drawn


FIGURE = Figure(
    title="{Measure} over block and timestep",
    reading="Each cell is one probe: the brighter, the better. Bold marks the best of the grid shown, × a trial that "
    "failed; an empty cell is missing or was not requested.",
    study="features",
    views=views,
)
