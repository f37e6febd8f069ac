"""The honest panel of study 2: are generated networks new, are they better, and do trivial controls do as well?"""

from typing import NamedTuple

from markupsafe import Markup

from harness.report.answer_weights import (
    DIGITS,
    MOST_ROWS,
    Newness,
    newness_of,
    setup_text,
    trivial_sentence,
)
from harness.report.figures.kinds import kind_name
from harness.report.rendering import render
from harness.report.trial_results import GENERATED, ORIGINAL, Kind, Spread, Trial
from harness.report.verdict import FEWEST, OPEN, SAME, Z
from harness.report.words import MISSING, NOISE_LEVEL, Estimate, p_alone, points

MOST_LISTED = 12  # trials whose headings are not folded
ROUNDING = 1e-6  # smaller distances count as 0: parameters have single precision
NOT_MEANT = "–"  # a measure that does not exist for this kind of network
MEASURED = {  # columns of the tables by kind, and their digits
    "distance": ("Distance to the nearest original", 3),
    "distance_raw": ("The same, raw", 4),
    "distance_to_mean": ("Distance to the mean", 3),
    "off_span": ("Off the span", 2),
    "step_gap": ("Step gap", 0),
    "max_similarity": ("Max similarity", 3),
}


class Control(NamedTuple):
    """The strongest trivial control of a trial, and the result of a paired test."""

    name: str
    said: str  # empty without a control


class Row(NamedTuple):
    """One trial's evidence."""

    trial: Trial
    goodness: str
    control: Control


class Value(NamedTuple):
    """A measured value and its range, both as text; the range may be empty."""

    text: str
    range: str = ""


class KindRow(NamedTuple):
    """Networks of one kind."""

    name: str
    networks: int
    best: Estimate
    mean: float | None
    values: list[Value]  # of each of `MEASURED`
    p: str


class Fold(NamedTuple):
    """What was measured in one trial."""

    setup: str
    newness: Newness
    trivial: str  # a sentence
    rows: list[KindRow]


def to_html(found: list[Trial]) -> Markup:
    """Returns the panel: a table with one row per trial, the rules, and the measured values by kind."""
    if not found:
        return Markup()
    return render(
        "honest_panel.html",
        **_evidence(found),
        rules=rules(),
        folds=[_fold(trial) for trial in found if trial.kinds],
        measures=[title for title, _ in MEASURED.values()],
        most_listed=MOST_LISTED,
        unfolded=sum(len(one.kinds) for one in found) <= MOST_ROWS,
    )


def evidence_table(found: list[Trial]) -> Markup:
    """Returns the numbers behind the verdicts, one row per trial."""
    return render("evidence.html", **_evidence(found))


def rules() -> Markup:
    """Returns the rules of the verdict in words."""
    return render("rules.html", z=Z, fewest=FEWEST, noise_level=NOISE_LEVEL)


def _evidence(found: list[Trial]) -> dict[str, object]:
    rows = [Row(trial, _goodness(trial), _control(trial)) for trial in found]
    return {"names": list(found[0].setup), "rows": rows, "digits": DIGITS}


def _goodness(trial: Trial) -> str:
    said = trial.verdict.against_originals
    return (
        "accuracy: open" if said == OPEN else f"{said} {'as' if said == SAME else 'than'} the best original"
    )


def _control(trial: Trial) -> Control:
    control = trial.trivial
    if control is None:
        return Control(MISSING, "")
    words = {OPEN: "no paired test", SAME: "as good as generated"}
    said = trial.verdict.against_trivial
    gap = "" if control.paired is None else f" ({points(-control.paired.difference, DIGITS)})"
    name = kind_name(control.kind, control.setting)
    return Control(name, f"{words.get(said) or f'generated is {said}'}{gap}")


def _fold(trial: Trial) -> Fold:
    rows = [_kind_row(kind) for kind in trial.kinds]
    return Fold(setup_text(trial.setup), newness_of(trial), trivial_sentence(trial), rows)


def _kind_row(kind: Kind) -> KindRow:
    return KindRow(
        name=kind_name(kind.kind, kind.setting),
        networks=kind.networks,
        best=kind.best,
        mean=kind.mean,
        values=[_value(name, kind, digits) for name, (_, digits) in MEASURED.items()],
        p=NOT_MEANT
        if kind.kind == GENERATED
        else p_alone(None if kind.paired is None else kind.paired.p_adjusted),
    )


def _value(name: str, kind: Kind, digits: int) -> Value:
    spread: Spread = kind.measures[name]
    if spread.median is None:
        alone = kind.kind == ORIGINAL and kind.networks == 1
        unmeant = alone or kind.kind == "vote" or name in ("off_span", "step_gap")
        return Value(NOT_MEANT if unmeant else MISSING)
    value = _number(spread.median, digits)
    if kind.networks == 1 or spread.low is None or spread.high is None:
        return Value(value)
    return Value(value, f"{_number(spread.low, digits)}–{_number(spread.high, digits)}")


def _number(value: float, digits: int) -> str:
    """Returns a number with fixed decimals, or with significant digits where those would show 0."""
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.2g}" if digits and abs(value) < 10**-digits else f"{value:.{digits}f}"
