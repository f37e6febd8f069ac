"""Clouds of networks, a colour and mark for each kind: what accuracy against similarity and the maps share."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.report.figures.kinds import kind_order, marks, short_name
from harness.report.setups import ALWAYS
from harness.report.words import label, number, plain

MOST_A_VIEW = 3000  # points; the page draws them as SVG
MOST_IN_ALL = 60_000  # points of all views of a figure together: every one is embedded in the page
LEAST_A_VIEW = 300
FEW = 3  # kinds with at most this many networks are drawn larger, and never thinned


class Cloud(NamedTuple):
    """The networks of one kind."""

    kind: str
    setting: float | None
    names: list[str]
    x: list[float]
    y: list[float]
    left_out: int  # how many are not drawn


def clouds(frame: pd.DataFrame, x: str, y: str, most: int = MOST_A_VIEW, factor: float = 1.0) -> list[Cloud]:
    """Returns the networks that have both numbers, by kind and setting; `factor` multiplies y.

    If there are more than `most` networks, each kind is thinned evenly in proportion.
    """
    frame = frame[["kind", "setting", "index", x, y]].dropna(subset=[x, y, "kind"])
    share = min(1.0, most / max(1, len(frame)))
    groups: dict[tuple[str, float | None], list[int]] = {}
    for place, (kind, setting) in enumerate(zip(frame["kind"], frame["setting"], strict=True)):
        groups.setdefault((str(kind), number(setting)), []).append(place)
    index, xs, ys = (frame[name].to_numpy(float, na_value=np.nan) for name in ("index", x, y))
    found = []
    for (kind, setting), places in groups.items():
        count = min(len(places), max(FEW, round(share * len(places))))
        at = np.array(places)[np.linspace(0, len(places) - 1, count).round().astype(int)]
        names = [plain(value) for value in index[at].tolist()]
        xs_at, ys_at = (np.round(values[at], 4).tolist() for values in (xs, factor * ys))
        found.append(Cloud(kind, setting, names, xs_at, ys_at, left_out=len(places) - count))
    return sorted(found, key=lambda cloud: kind_order(cloud.kind, cloud.setting))


def narrow(frame: pd.DataFrame, choices: list[str], *numbers: str) -> pd.DataFrame:
    """Returns only the columns that clouds need, because each column costs time at every selection."""
    columns = dict.fromkeys([*choices, *ALWAYS, "kind", "setting", "index", *numbers])
    return frame[list(columns)].astype({"kind": object})


def most_a_view(views: int) -> int:
    """Returns how many points each of this many views may have."""
    return max(LEAST_A_VIEW, min(MOST_A_VIEW, MOST_IN_ALL // max(1, views)))


def traces(found: list[Cloud], hover: str) -> list[dict[str, Any]]:
    """Returns a trace for each kind: generated networks over the others; the few (an ensemble) larger, over all."""
    drawn = []
    for cloud, mark in zip(found, marks([(cloud.kind, cloud.setting) for cloud in found]), strict=True):
        few = len(cloud.names) <= FEW
        look: dict[str, Any] = {"size": 13 if few else 7, "opacity": 1 if few else 0.75}
        trace: dict[str, Any] = {
            "type": "scatter",
            "x": cloud.x,
            "y": cloud.y,
            "name": label(short_name(cloud.kind, cloud.setting)),
            "mode": "markers",
            "marker": look | {"color": mark.colour, "symbol": mark.symbol},
            "customdata": cloud.names,
            "hovertemplate": hover,
            "zorder": 2 if few else int(cloud.kind == "generated"),
        }
        drawn.append(trace)
    return drawn


def thinned(found: list[Cloud]) -> dict[str, Any]:
    """Returns the part of a layout that says how many networks are drawn; nothing if all are."""
    left_out, shown = sum(cloud.left_out for cloud in found), sum(len(cloud.names) for cloud in found)
    if not left_out:
        return {}
    where = {"xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom"}
    text = f"{shown:,} of {shown + left_out:,} networks drawn"
    return {"annotations": [{**where, "text": text, "showarrow": False}], "margin": {"t": 30}}
