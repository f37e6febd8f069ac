"""CKA as matrices: blocks by blocks, blocks by the layers of other networks, timesteps by timesteps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.report.figures.figure import Absent, Drawing, Figure, View, levels, split, succeeded, varied
from harness.report.tables import Tables
from harness.report.words import label, number, plain

BACKBONE = "backbone"  # the name of the experiment's own network in rows
SIDE = ("model", "condition", "block", "block_name", "timestep", "pool")
MOST_NUMBERED = 12  # rows or columns up to which cells have room for a number
NONE_OF_THEM = "No pair of representations has a CKA."
TIMESTEP_TITLE = "Timestep (0 is least noise)"


class Matrix(NamedTuple):
    """CKA of the rows' representations with the columns'; None where there is no number."""

    rows: list[str]
    columns: list[str]
    row_names: list[str]  # shown when hovering over a cell
    column_names: list[str]
    cka: list[list[float | None]]


def pairs(tables: Tables) -> pd.DataFrame:
    """Returns the rows that have a CKA."""
    return succeeded(tables.similarity).dropna(subset=["cka", "a_model", "b_model"])


def of_blocks(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the pairs of two backbones' blocks, or of one's, at the same noise level and pool.

    Rows of two backbones have the same level, which may be another step of the other's schedule.
    """
    level = (frame["a_timestep"] == frame["b_timestep"]) | (frame["a_model"] != frame["b_model"])
    return frame[level & (frame["a_pool"] == frame["b_pool"]) & frame["b_block"].notna()]


def of_encoders(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the pairs of a block and a layer of a network that sees no noise."""
    return frame[frame["b_timestep"].isna() & frame["a_timestep"].notna()]


def of_timesteps(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the pairs of one block at two timesteps, with the same pool."""
    own = (frame["a_model"] == BACKBONE) & (frame["b_model"] == BACKBONE)
    same = (frame["a_block"] == frame["b_block"]) & (frame["a_pool"] == frame["b_pool"])
    return frame[own & same & (frame["a_timestep"] != frame["b_timestep"])]


def both_ways(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns every pair in both orders: CKA is symmetric, and rows hold each pair once."""
    turned = {f"{a}_{name}": f"{b}_{name}" for name in SIDE for a, b in (("a", "b"), ("b", "a"))}
    return pd.concat([frame, frame.rename(columns=turned)], ignore_index=True)


def matrix(frame: pd.DataFrame, a: str, b: str, symmetric: bool) -> Matrix:
    """Returns the matrix over columns `a` and `b` of the rows; repeats, such as seeds, are averaged."""
    frame = both_ways(frame) if symmetric else frame
    rows, columns = levels(frame[a]), levels(frame[b])
    mean = frame.pivot_table(index=a, columns=b, values="cka", aggfunc="mean")
    values = mean.reindex(index=rows, columns=columns).to_numpy(float)
    if symmetric:
        values = np.where(np.eye(len(rows), dtype=bool), 1.0, values)
    row_names, column_names = _names(frame, a, rows), _names(frame, b, columns)
    return Matrix(
        rows=[plain(row) for row in rows],
        columns=[plain(column) for column in columns],
        row_names=row_names,
        column_names=column_names,
        cka=[[number(value) for value in row] for row in values.tolist()],
    )


def _names(frame: pd.DataFrame, column: str, values: Sequence[Any]) -> list[str]:
    """Returns the blocks' module paths or layers' names; empty for other axes."""
    if not column.endswith("_block"):
        return [""] * len(values)
    known = frame.dropna(subset=[f"{column}_name"]).groupby(column)[f"{column}_name"].first()
    return [plain(known.get(value, "")) for value in values]


def draw(cells: Matrix, x_title: str, y_title: str, named: bool = False) -> Drawing:
    """Returns the heatmap of a matrix; `named` labels columns by name instead of number."""
    numbered = max(len(cells.rows), len(cells.columns)) <= MOST_NUMBERED
    places = [
        [" × ".join(filter(None, (label(row), label(column)))) for column in cells.column_names]
        for row in cells.row_names
    ]
    trace = {
        "type": "heatmap",
        "x": [label(name) for name in cells.column_names] if named else cells.columns,
        "y": cells.rows,
        "z": cells.cka,
        "zmin": 0,
        "zmax": 1,
        "text": [["" if value is None else f"{value:.2f}" for value in row] for row in cells.cka],
        **({"texttemplate": "%{text}"} if numbered else {}),
        "customdata": places,
        "hovertemplate": "%{y} × %{x}<br>%{customdata}<br><b>%{z:.3f}</b><extra></extra>",
        "hoverongaps": False,
        "colorscale": "Viridis",
        "xgap": 2 if numbered else 0.5,
        "ygap": 2 if numbered else 0.5,
        "colorbar": {"title": {"text": "CKA"}},
    }
    return Drawing(
        [trace],
        {
            "height": max(320, 140 + (32 if numbered else 16) * len(cells.rows)),
            "xaxis": {"title": {"text": x_title}, "type": "category", "showgrid": False, "automargin": True},
            "yaxis": {"title": {"text": y_title}, "type": "category", "showgrid": False},
        },
    )


def _drawn(
    frame: pd.DataFrame, choices: Sequence[tuple[str, str]], paint: Callable[[pd.DataFrame], Drawing]
) -> list[View]:
    """Returns a view for each combination of `choices`, (name, column), and of data sets where they vary."""
    named = frame.assign(**{name: frame[column] for name, column in choices})
    by = [*varied(named, ["data"]), *(name for name, _ in choices)]
    return [View(choice, paint(rows)) for choice, rows in split(named, by)]


def block_views(tables: Tables) -> list[View] | Absent:
    """Draws blocks by blocks for each timestep, pool and network that has blocks."""

    def paint(rows: pd.DataFrame) -> Drawing:
        other = rows["b_model"].iloc[0]
        cells = matrix(rows, "a_block", "b_block", symmetric=other == BACKBONE)
        whose = "" if other == BACKBONE else f" of {label(other)}"
        return draw(cells, f"Block{whose} (from the input)", "Block (from the input)")

    frame = of_blocks(pairs(tables))
    frame = frame[(frame["b_model"] != BACKBONE) | (frame["a_block"] != frame["b_block"])]
    if frame.empty:
        return Absent(NONE_OF_THEM)
    return _drawn(frame, [("with", "b_model"), ("timestep", "a_timestep"), ("pool", "a_pool")], paint)


def encoder_views(tables: Tables) -> list[View] | Absent:
    """Draws blocks by layers for each timestep, pool and encoder."""

    def paint(rows: pd.DataFrame) -> Drawing:
        cells = matrix(rows, "a_block", "b_block", symmetric=False)
        return draw(cells, f"Layer of {label(rows['b_model'].iloc[0])}", "Block (from the input)", named=True)

    frame = of_encoders(pairs(tables))
    if frame.empty:
        return Absent("No block was compared with an encoder.")
    return _drawn(frame, [("with", "b_model"), ("timestep", "a_timestep"), ("pool", "a_pool")], paint)


def timestep_views(tables: Tables) -> list[View] | Absent:
    """Draws timesteps by timesteps for each block and pool."""

    def paint(rows: pd.DataFrame) -> Drawing:
        cells = matrix(rows, "a_timestep", "b_timestep", symmetric=True)
        return draw(cells, TIMESTEP_TITLE, TIMESTEP_TITLE)

    frame = of_timesteps(pairs(tables))
    if frame.empty:
        return Absent("No block was compared across timesteps.")
    return _drawn(frame, [("block", "a_block"), ("pool", "a_pool")], paint)


BLOCKS = Figure(
    title="CKA of blocks with blocks",
    reading="Each cell shows how similar two blocks are: 1 is equal up to rotation and scale, 0 unrelated. Bright "
    "squares along the diagonal are stages that change little; at high noise all blocks are similar, because all "
    "see the same noise.",
    study="cka",
    views=block_views,
)
ENCODERS = Figure(
    title="CKA of blocks with other networks",
    reading="Each cell shows how similar a block and a layer of another network are; only values above those of "
    "pixels and random weights suggest that both have learnt the same.",
    study="cka",
    views=encoder_views,
)
TIMESTEPS = Figure(
    title="CKA of a block across timesteps",
    reading="Each cell shows how similar one block's features are at two noise levels; where a cell is bright, "
    "either level works.",
    study="cka",
    views=timestep_views,
)
