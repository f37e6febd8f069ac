"""The honest panel of study 2: is what each trial generated new, is it better, and do trivial controls do as well?"""

from collections.abc import Iterable
from typing import Any

from harness.report.answer_weights import (
    DIGITS,
    MOST_ROWS,
    gain_interval,
    newness_sentence,
    setup_text,
    trivial_sentence,
)
from harness.report.figures.figure import choice_title
from harness.report.figures.kinds import kind_name
from harness.report.setups import Mean
from harness.report.trials import GENERATED, ORIGINAL, Kind, Spread, Trial
from harness.report.verdict import OPEN, RULES, SAME
from harness.report.words import (
    MISSING,
    Estimate,
    cell,
    decimal,
    escape,
    heads,
    interval,
    p_alone,
    p_value,
    percent,
    points,
    several,
    table,
)

MOST_LISTED = 12  # trials whose headings stand unfolded
ROUNDING = 1e-6  # a distance that is smaller is none: parameters are of single precision
NOT_MEANT = "–"  # a measure that this kind of network cannot have
EVIDENCE = {  # columns of the first table, and their digits
    "copying_z": ("Z<sub>U</sub>", 1),
    "mean_z": ("Z<sub>mean</sub>", 1),
    "distance_ratio": ("Distance ratio", 2),
    "variance_ratio": ("Variance ratio", 2),
}
SHARES = {"new_share": "New", "new_and_good_share": "New and good"}
MEASURED = {  # columns of the tables by kind, and their digits
    "distance": ("Distance to the nearest original", 3),
    "distance_raw": ("The same, raw", 4),
    "distance_to_mean": ("Distance to the mean", 3),
    "off_span": ("Off the span", 2),
    "step_gap": ("Step gap", 0),
    "max_similarity": ("Max similarity", 3),
}
LEGEND = (
    "Distances are RMS differences of normalised parameters, raw ones of parameters as they are; originals leave "
    "themselves out. Z below 0 means nearer than held-out checkpoints, ratios are generated over held-out (distance) "
    "and over originals (variance). New: at least as far from every original as 5\u202f% of held-out checkpoints "
    "are; good: as accurate on test as the median original. Off the span: share of the squared length that no "
    "mixture of the originals reaches. Step gap: training steps to the nearest original; consecutive checkpoints are "
    "near-duplicates. Intervals of gains of means are Student's over seeds, or over runs of the generator."
)


def to_html(found: list[Trial]) -> str:
    """Returns the panel: a table with a row for each trial, the rules, and the measured values by kind."""
    if not found:
        return ""
    rules = f"<details><summary>The rules of the verdict</summary>{RULES}</details>"
    text = f'<h3>Is it new, and is it better?</h3>{evidence_table(found)}<p class="note">{LEGEND}</p>{rules}'
    parts = [
        _kinds(trial, sum(len(one.kinds) for one in found) <= MOST_ROWS) for trial in found if trial.kinds
    ]
    if not parts:
        return text
    body = "".join(parts)
    if len(parts) > MOST_LISTED:
        body = f"<details><summary>{several(len(parts), 'trial')}</summary>{body}</details>"
    return f"{text}<h3>Measured, by kind of network</h3>{body}"


def evidence_table(found: list[Trial]) -> str:
    """Returns the numbers that the verdicts follow from, a row for each trial."""
    names = list(found[0].setup)
    words = [*map(choice_title, names), "Verdict"]
    titles = [*words, *(title for title, _ in EVIDENCE.values()), *SHARES.values()]
    titles += ["Gain of best", "Gain of mean", "Trivial control", "Its gain of mean"]
    words.append("Trivial control")
    rows = ("".join(_evidence_cells(trial)) for trial in found)
    return table(
        "Generated networks beside held-out checkpoints, which nothing learnt from",
        heads(titles, words),
        rows,
        dense=True,
    )


def _evidence_cells(trial: Trial) -> Iterable[str]:
    yield from (cell(escape(value), header=True) for value in trial.setup.values())
    warning = "<small>originals of different networks</small>" if trial.permuted else ""
    yield f'<td class="text"><strong>{trial.verdict.newness}</strong>{_goodness(trial)}{warning}</td>'
    for name, (_, digits) in EVIDENCE.items():
        alone = name == "variance_ratio" and trial.original.networks == 1  # has no variance
        text = NOT_MEANT if alone else _signed(trial.newness[name], digits)
        raw = trial.newness["copying_z_raw"] if name == "copying_z" else None
        yield cell(text if raw is None else f"{text}<small>raw {_signed(raw, digits)}</small>")
    yield from (cell(percent(trial.newness[name], 0)) for name in SHARES)
    tested = "" if trial.gain.value is None else f"<small>{p_value(trial.p_adjusted)}</small>"
    yield cell(_gain(trial.gain) + tested)
    yield cell(_mean_gain(trial.mean_gain))
    yield f'<td class="text">{_trivial(trial)}</td>'
    yield cell(_mean_gain(trial.trivial_mean_gain))


def _signed(value: float | None, digits: int) -> str:
    return MISSING if value is None else decimal(round(value, digits) + 0.0, digits).replace("-", "−")


def _goodness(trial: Trial) -> str:
    said = trial.verdict.against_originals
    if said == OPEN:
        return "<small>accuracy: open</small>"
    return f"<small>{said} {'as' if said == SAME else 'than'} the best original</small>"


def _gain(gain: Estimate | Mean) -> str:
    if gain.value is None:
        return MISSING
    value = points(gain.value, DIGITS).split("\u00a0")[0]
    return value if gain.low is None else f"{value}<small>{gain_interval(gain)}</small>"


def _mean_gain(gain: Mean) -> str:
    text = _gain(gain)
    if gain.value is None:
        return text
    return text + ("<small>one run</small>" if gain.runs == 1 else f"<small>{gain.runs} runs</small>")


def _trivial(trial: Trial) -> str:
    control = trial.trivial
    if control is None:
        return MISSING
    words = {OPEN: "no paired test", SAME: "as good as generated"}
    said = trial.verdict.against_trivial
    gap = "" if control.paired is None else f" ({points(-control.paired.difference, DIGITS)})"
    name = escape(kind_name(control.kind, control.setting))
    return f"{name}<small>{words.get(said) or f'generated is {said}'}{gap}</small>"


def _kinds(trial: Trial, unfolded: bool) -> str:
    titles = ["Kind", "Best, test", "Mean, test", *(title for title, _ in MEASURED.values())]
    head = heads([*titles, "p against generated"], titles[:1])
    caption = "Medians; beneath them from the 5th to the 95th percentile"
    body = table(caption, head, map(_kind_cells, trial.kinds), dense=True)
    text = f"<p>{newness_sentence(trial)} {trivial_sentence(trial)}</p>"
    title = f"{setup_text(trial.setup)}: {several(len(trial.kinds), 'kind')}"
    return f"<details{' open' if unfolded else ''}><summary>{title}</summary>{text}{body}</details>"


def _kind_cells(kind: Kind) -> str:
    texts: list[Any] = [_best(kind.best), percent(kind.mean, DIGITS)]
    texts += [_spread(name, kind, digits) for name, (_, digits) in MEASURED.items()]
    paired = None if kind.paired is None else kind.paired.p_adjusted
    texts.append(NOT_MEANT if kind.kind == GENERATED else p_alone(paired))
    name = f"{escape(kind_name(kind.kind, kind.setting))}<small>{several(kind.networks, 'network')}</small>"
    return cell(name, header=True) + "".join(map(cell, texts))


def _spread(name: str, kind: Kind, digits: int) -> str:
    spread: Spread = kind.measures[name]
    if spread.median is None:
        alone = kind.kind == ORIGINAL and kind.networks == 1
        return NOT_MEANT if alone or kind.kind == "vote" or name in ("off_span", "step_gap") else MISSING
    value = _number(spread.median, digits)
    if kind.networks == 1 or spread.low is None or spread.high is None:
        return value
    return f"{value}<small>{_number(spread.low, digits)}–{_number(spread.high, digits)}</small>"


def _number(value: float, digits: int) -> str:
    """Returns a number with fixed decimals, or with significant ones where those would say 0."""
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.2g}" if digits and abs(value) < 10**-digits else f"{value:.{digits}f}"


def _best(accuracy: Estimate) -> str:
    value = percent(accuracy.value, DIGITS)
    if accuracy.value is None or accuracy.low is None:
        return value
    return f"<strong>{value}</strong><small>{interval(accuracy, DIGITS)}</small>"
