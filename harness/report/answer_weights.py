"""Study 2 in words and tables: are generated networks as good, are they new, what do the controls say?"""

from collections.abc import Callable, Iterable
from typing import Any

from harness.report.figures.figure import choice_title
from harness.report.figures.kinds import kind_name
from harness.report.trials import ENSEMBLE, GENERATED, ORIGINAL, SUMMARISED, Control, Novelty, Summary, Trial
from harness.report.words import (
    NOISE_LEVEL,
    Estimate,
    cell,
    decimal,
    escape,
    interval,
    listed,
    p_value,
    percent,
    points,
    several,
    table,
    with_interval,
)

DIGITS = 2  # of a percentage: the test sets are large and the gaps small
LARGER_THAN_NOISE = 1.96  # |z|, 5 % two-sided
SHOWN = 6  # trials described at once; the rest can be unfolded


def setup_text(setup: dict[str, Any]) -> str:
    """Returns "K = 200, subset strided", escaped."""
    return ", ".join(
        f"K\u00a0=\u00a0{escape(value)}" if name == "k" else f"{choice_title(name).lower()} {escape(value)}"
        for name, value in setup.items()
    )


def to_html(found: list[Trial]) -> str:
    """Returns a paragraph of plain sentences for each trial, the largest K first."""
    if not found:
        return "<p>No trial succeeded, so there is no answer.</p>"
    ordered = sorted(
        found, key=lambda trial: -(trial.setup["k"] if trial.setup["k"] == trial.setup["k"] else 0)
    )
    items = [_item(trial) for trial in ordered]
    text = _overview(found) + f'<ul class="trials">{"".join(items[:SHOWN])}</ul>'
    if items[SHOWN:]:
        rest = several(len(items) - SHOWN, "more trial")
        text += (
            f'<details><summary>{rest}</summary><ul class="trials">{"".join(items[SHOWN:])}</ul></details>'
        )
    if len(found) > 1:
        text += f'<p class="note">The p-values are not corrected for {several(len(found), "comparison")}.</p>'
    return text


def _overview(found: list[Trial]) -> str:
    tested = [trial for trial in found if trial.p is not None and trial.difference is not None]
    if not tested:
        return '<p class="lead">No trial has a paired test of generated against original networks.</p>'
    larger = [trial for trial in tested if (trial.p or 0) < NOISE_LEVEL]
    better = sum((trial.difference or 0) > 0 for trial in larger)
    same = len(tested) - len(larger)
    return (
        f'<p class="lead">Of {several(len(tested), "trial")} with a paired test, the best generated network is '
        f"<strong>better than the best original in {better}</strong>, worse in {len(larger) - better}, and "
        f"not distinguishable from it in {same}; best always means selected on validation.</p>"
    )


def _item(trial: Trial) -> str:
    sentences = [_accuracy_sentence(trial), _ensemble_sentence(trial), _novelty_sentence(trial)]
    text = " ".join(sentence for sentence in [*sentences, _controls_sentence(trial)] if sentence)
    return f"<li><strong>{setup_text(trial.setup)}.</strong> {text}</li>"


def _accuracy_sentence(trial: Trial) -> str:
    best = trial.generated.best
    if best.value is None:
        return "The accuracy of generated networks is missing."
    text = f"The best generated network reaches {with_interval(best, DIGITS)}, "
    text += f"the best original {percent(trial.original.best.value, DIGITS)}: "
    if trial.difference is None:
        return text + "their difference is missing."
    if trial.p is None:
        return text + f"{points(trial.difference, DIGITS)}, without a paired test."
    if trial.p >= NOISE_LEVEL:
        return (
            text
            + f"no difference larger than noise ({points(trial.difference, DIGITS)}, {p_value(trial.p)})."
        )
    word = "better" if trial.difference > 0 else "worse"
    return text + f"{word} by more than noise ({points(trial.difference, DIGITS)}, {p_value(trial.p)})."


def _ensemble_sentence(trial: Trial) -> str:
    if trial.ensemble.value is None:
        return ""
    text = f"One network with the average of the originals' weights reaches {percent(trial.ensemble.value, DIGITS)}"
    pairs = [
        control.paired for control in trial.kinds if control.kind == ENSEMBLE and control.paired is not None
    ]
    if not pairs:
        return text + "."
    larger = "more than noise away from generated" if pairs[0].p < NOISE_LEVEL else "no more than noise away"
    return f"{text}, {larger} ({p_value(pairs[0].p)})."


def verdict(similarity: Novelty, distance: Novelty) -> str:
    """Returns what two measures of nearness say about new or copied.

    Nearness to an original is judged against that of originals to each other: more similar and less distant
    by more than noise on both is copying or averaging, the opposite on both is new.
    """
    nearer = [None if similarity.z is None else similarity.z, None if distance.z is None else -distance.z]
    known = [z for z in nearer if z is not None]
    if not known:
        return ""
    if all(z > LARGER_THAN_NOISE for z in known):
        return "nearer to an original than originals are to each other, as copies or averages are"
    if all(z < -LARGER_THAN_NOISE for z in known):
        return "farther from every original than originals are from each other, so new, not copies"
    if all(abs(z) <= LARGER_THAN_NOISE for z in known):
        return "as near to an original as originals are to each other"
    return "not clearly new and not clearly copies: the measures disagree or one is within noise"


def _novelty_sentence(trial: Trial) -> str:
    said = verdict(trial.similarity, trial.distance)
    if not said:
        return "Whether they are new or copies is open: similarities and distances are missing."
    parts = [
        f"{name} {decimal(novelty.generated)} against {decimal(novelty.original)}"
        for name, novelty in (
            ("mean max similarity", trial.similarity),
            ("distance to the nearest", trial.distance),
        )
        if novelty.generated is not None
    ]
    return f"New or copies? Generated networks are <em>{said}</em> ({listed(parts)} among originals)."


def _controls_sentence(trial: Trial) -> str:
    found = [
        control
        for control in trial.kinds
        if control.kind not in SUMMARISED and control.best.value is not None
    ]
    if not found:
        return "No noise or averaging control was measured."
    parts = [
        f"{escape(kind_name(control.kind, control.setting))} {percent(control.best.value, DIGITS)}{_beside(control)}"
        for control in found
    ]
    return f"Trivial controls, best of each: {listed(parts)}."


def _beside(control: Control) -> str:
    if control.similarity is None:
        return ""
    return f" (similarity {decimal(control.similarity, 2)})"


def accuracy_table(found: list[Trial]) -> str:
    """Returns the table original / ensemble / generated: a row per trial; best with interval, mean, median."""
    names = list(found[0].setup) if found else ["k", "subset"]
    head = (
        "<tr>"
        + "".join(f'<th scope="col" rowspan="2">{choice_title(name)}</th>' for name in names)
        + '<th scope="colgroup" colspan="3">Original</th><th scope="col">Ensemble</th>'
        '<th scope="colgroup" colspan="3">Generated</th>'
        '<th scope="colgroup" colspan="2">Generated − original, best</th></tr><tr>'
        + "".join(
            f'<th scope="col">{name}</th>'
            for name in ("best", "mean", "median", "accuracy", "best", "mean", "median", "points", "p-value")
        )
        + "</tr>"
    )
    rows = ("".join(_accuracy_cells(trial)) for trial in found)
    return table("Test accuracy; best is selected on validation and has its 95\u202f% interval", head, rows)


def _accuracy_cells(trial: Trial) -> Iterable[str]:
    yield from (cell(escape(value), header=True) for value in trial.setup.values())
    yield from _summary_cells(trial.original)
    yield cell(_stacked(trial.ensemble))
    yield from _summary_cells(trial.generated)
    yield cell(points(trial.difference, DIGITS).split("\u00a0")[0])
    yield cell(p_value(trial.p).removeprefix("p").strip().removeprefix("=").strip())


def _summary_cells(summary: Summary) -> Iterable[str]:
    yield cell(_stacked(summary.best))
    yield from (cell(percent(value, DIGITS)) for value in (summary.mean, summary.median))


def _stacked(accuracy: Estimate) -> str:
    value = percent(accuracy.value, DIGITS)
    if accuracy.value is None or accuracy.low is None:
        return value
    return f"<strong>{value}</strong><small>{interval(accuracy, DIGITS)}</small>"


def controls_table(found: list[Trial]) -> str:
    """Returns the table of every kind of network: a row per trial and kind, p-values against generated."""
    names = list(found[0].setup) if found else ["k", "subset"]
    titles = [
        *map(choice_title, names),
        "Kind",
        "Networks",
        "Best, test",
        "Mean, test",
        "Mean max similarity",
        "Mean distance",
        "p against generated",
    ]
    head = "<tr>" + "".join(f'<th scope="col">{title}</th>' for title in titles) + "</tr>"
    rows = [
        "".join(cell(escape(value), header=True) for value in trial.setup.values()) + _control_cells(control)
        for trial in found
        for control in trial.kinds
    ]
    if not rows:
        return ""
    body = table(
        "Every kind of network beside the originals; distance is RMS of normalised parameters", head, rows
    )
    fold = " open" if len(rows) <= 30 else ""
    return f"<details{fold}><summary>All kinds and controls ({several(len(rows), 'row')})</summary>{body}</details>"


def _control_cells(control: Control) -> str:
    p = "–" if control.kind == GENERATED else p_value(None if control.paired is None else control.paired.p)
    said: list[tuple[Callable[[str], str], str]] = [
        (lambda text: cell(text, header=True), escape(kind_name(control.kind, control.setting))),
        (cell, f"{control.networks:,}"),
        (cell, _stacked(control.best)),
        (cell, percent(control.mean, DIGITS)),
        (cell, decimal(control.similarity)),
        (cell, decimal(control.distance)),
        (cell, p.removeprefix("p").strip().removeprefix("=").strip()),
    ]
    return "".join(make(text) for make, text in said)


__all__ = ["ORIGINAL", "accuracy_table", "controls_table", "setup_text", "to_html", "verdict"]
