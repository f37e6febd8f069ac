"""Kinds of networks in study 2: their names, colours and marks, the same in every figure."""

from typing import NamedTuple

from harness.report.words import plain

ORDER = ("original", "ensemble", "generated", "reconstructed", "noise", "gaussian")
SETUP = ("data", "network", "parameters", "seed")  # what may vary beside k and subset


class Mark(NamedTuple):
    """Colour and symbol of a kind; both, so that neither colour-blind readers nor grey print lose it."""

    colour: str
    symbol: str


_MARKS = {
    "original": Mark("#2f78d6", "circle"),
    "ensemble": Mark("#b8458f", "star"),
    "generated": Mark("#e2711d", "diamond"),
    "reconstructed": Mark("#1b9e77", "square"),
}
_NOISE = (
    Mark("#85888d", "x"),
    Mark("#85888d", "x-open"),
    Mark("#85888d", "cross"),
    Mark("#85888d", "cross-open"),
)
_OTHER = (Mark("#c9a227", "triangle-up"), Mark("#56a3d9", "triangle-down"), Mark("#8c6bb1", "pentagon"))


def kind_order(kind: str, setting: float | None) -> tuple[int, str, float]:
    """Returns where a kind stands in tables and legends."""
    place = ORDER.index(kind) if kind in ORDER else len(ORDER)
    return place, kind, -1.0 if setting is None else setting


def kind_name(kind: str, setting: float | None) -> str:
    """Returns a kind as people read it: "noise 0.05", "average of 16"."""
    if kind == "average" and setting is not None:
        return f"average of {plain(setting)}"
    return kind if setting is None else f"{kind} {plain(setting)}"


def marks(kinds: list[tuple[str, float | None]]) -> list[Mark]:
    """Returns the marks of kinds that stand in one figure together."""
    chosen, noises, others = [], 0, 0
    for kind, _ in kinds:
        if kind in _MARKS:
            chosen.append(_MARKS[kind])
        elif kind == "noise":
            chosen.append(_NOISE[noises % len(_NOISE)])
            noises += 1
        else:
            chosen.append(_OTHER[others % len(_OTHER)])
            others += 1
    return chosen
