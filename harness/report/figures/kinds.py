"""Kinds of networks in study 2: their names, colours and marks, the same in every figure."""

from typing import NamedTuple

from harness.report.words import plain

NAMES = {
    "original": "original",
    "ensemble": "average of all weights",
    "generated": "generated",
    "reconstructed": "reconstructed",
    "held_out": "held-out checkpoints",
    "vote": "prediction ensemble",
    "average": "average of {}",
    "gaussian": "Gaussian per coordinate",
    "decoded_gaussian": "decoded Gaussian latents",
    "noise": "noise {}",
    "absolute_noise": "absolute noise {}",
    "fine_tuned": "fine-tuned further",
    "other_seed": "another seed",
}
EXPLANATIONS = {"ensemble": "the paper's ensemble", "vote": "vote"}  # added to names where there is room
ORDER = tuple(NAMES)


class Mark(NamedTuple):
    """Colour and symbol of a kind; both, so that kinds stay distinct to colour-blind readers and in greyscale."""

    colour: str
    symbol: str


_MARKS = {
    "original": Mark("#2f78d6", "circle"),
    "ensemble": Mark("#b8458f", "star"),
    "generated": Mark("#e2711d", "diamond"),
    "reconstructed": Mark("#1b9e77", "square"),
    "held_out": Mark("#2f78d6", "circle-open"),
    "vote": Mark("#b8458f", "hexagram"),
    "average": Mark("#c9a227", "triangle-up"),
    "gaussian": Mark("#56a3d9", "triangle-down"),
    "decoded_gaussian": Mark("#1b9e77", "triangle-left"),
    "fine_tuned": Mark("#8c6bb1", "pentagon"),
    "other_seed": Mark("#8c6bb1", "hexagon-open"),
}
_NOISE = ("x", "x-open", "cross", "cross-open", "asterisk-open", "hash-open")
_NOISY = {"noise": "#85888d", "absolute_noise": "#a65628"}
_OTHER = (Mark("#c9a227", "bowtie"), Mark("#56a3d9", "hourglass"), Mark("#8c6bb1", "star-square"))


def kind_order(kind: str, setting: float | None) -> tuple[int, str, float]:
    """Returns the sort key of a kind in tables and legends."""
    place = ORDER.index(kind) if kind in ORDER else len(ORDER)
    return place, kind, -1.0 if setting is None else setting


def kind_name(kind: str, setting: float | None) -> str:
    """Returns a kind as people read it: "noise 0.05", "average of 16"; a plugin's kind may be any text."""
    name = short_name(kind, setting)
    return f"{name} ({EXPLANATIONS[kind]})" if kind in EXPLANATIONS else name


def short_name(kind: str, setting: float | None) -> str:
    """Returns the name without its explanation, for legends."""
    name = NAMES.get(kind, kind)
    if name.endswith("{}"):
        return kind if setting is None else name.format(plain(setting))
    return name if setting is None else f"{name} {plain(setting)}"


def marks(kinds: list[tuple[str, float | None]]) -> list[Mark]:
    """Returns the marks of kinds that appear in the same figure."""
    chosen: list[Mark] = []
    counts: dict[str, int] = {}
    for kind, _ in kinds:
        if kind in _MARKS:
            chosen.append(_MARKS[kind])
            continue
        group = kind if kind in _NOISY else ""
        place = counts.get(group, 0)
        counts[group] = place + 1
        noisy = Mark(_NOISY.get(kind, ""), _NOISE[place % len(_NOISE)])
        chosen.append(noisy if group else _OTHER[place % len(_OTHER)])
    return chosen
