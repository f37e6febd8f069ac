"""Study 2 in words and tables: are generated networks as good, are they new, what do the controls say?"""

from collections.abc import Iterable
from typing import Any

from harness.report.figures.figure import choice_title
from harness.report.figures.kinds import kind_name
from harness.report.trials import ENSEMBLE, GENERATED, SUMMARISED, Control, Novelty, Summary, Trial
from harness.report.words import (
    NOISE_LEVEL,
    Estimate,
    cell,
    decimal,
    escape,
    heads,
    interval,
    listed,
    number,
    p_alone,
    p_value,
    percent,
    points,
    several,
    table,
    with_interval,
)

DIGITS = 2  # of a percentage: the test sets are large and the gaps small
LARGER_THAN_NOISE = 1.96  # |z|, 5 % two-sided
SHOWN = 4  # trials described at once, those with the largest K; the rest can be unfolded
COPIES, NEW, ALIKE, UNCLEAR = "copies", "new", "alike", "unclear"
VERDICTS = {
    COPIES: "nearer to an original than originals are to each other, as copies and averages are",
    NEW: "farther from every original than originals are from each other: new, not copies",
    ALIKE: "as near to an original as originals are to each other",
    UNCLEAR: "neither clearly new nor clearly copies: the measures disagree",
}


def setup_text(setup: dict[str, Any]) -> str:
    """Returns "K = 200, subset strided", escaped."""
    return ", ".join(
        f"K\u00a0=\u00a0{escape(value)}" if name == "k" else f"{choice_title(name).lower()} {escape(value)}"
        for name, value in setup.items()
    )


def verdict(similarity: Novelty, distance: Novelty) -> str | None:
    """Returns which of `VERDICTS` two measures of nearness give; None where neither was measured.

    Nearness to an original is judged against that of originals to each other: nearer by more than noise on
    both measures is copying or averaging, farther on both is new.
    """
    nearer = [similarity.z, None if distance.z is None else -distance.z]
    known = [z for z in nearer if z is not None]
    if not known:
        return None
    if all(z > LARGER_THAN_NOISE for z in known):
        return COPIES
    if all(z < -LARGER_THAN_NOISE for z in known):
        return NEW
    return ALIKE if all(abs(z) <= LARGER_THAN_NOISE for z in known) else UNCLEAR


def to_html(found: list[Trial]) -> str:
    """Returns what all trials say together, then a paragraph for each, the largest K first."""
    if not found:
        return "<p>No trial succeeded, so there is no answer.</p>"
    ordered = sorted(found, key=lambda trial: -(number(trial.setup["k"]) or 0))
    items = [_item(trial) for trial in ordered]
    text = f'<p class="lead">{_overview(found)}</p><ul>{"".join(items[:SHOWN])}</ul>'
    if items[SHOWN:]:
        rest = several(len(items) - SHOWN, "more trial")
        text += f"<details><summary>{rest}</summary><ul>{''.join(items[SHOWN:])}</ul></details>"
    note = "Best always means selected on validation; accuracies are on test."
    if len(found) > 1:
        note += f" The p-values are not corrected for there being {several(len(found), 'trial')}."
    return f'{text}<p class="note">{note}</p>'


def _overview(found: list[Trial]) -> str:
    gaps = [(t.difference, t.p) for t in found if t.difference is not None and t.p is not None]
    if gaps:
        better = sum(p < NOISE_LEVEL and gap > 0 for gap, p in gaps)
        worse = sum(p < NOISE_LEVEL and gap < 0 for gap, p in gaps)
        text = f"The best generated network is better than the best original in <strong>{better}</strong> of "
        text += f"{several(len(gaps), 'trial')}, worse in <strong>{worse}</strong>, and not distinguishable "
        text += f"from it in <strong>{len(gaps) - better - worse}</strong>."
    else:
        text = "No trial has a paired test of generated against original networks."
    verdicts = [said for said in (verdict(t.similarity, t.distance) for t in found) if said is not None]
    said = (f"{VERDICTS[name]} (in {verdicts.count(name)})" for name in VERDICTS if name in verdicts)
    if not verdicts:
        return text
    where = f"{several(len(verdicts), 'trial')} where nearness was measured"
    return f"{text} In {where}, generated networks are {listed(said)}."


def _item(trial: Trial) -> str:
    sentences = [_accuracy_sentence(trial), _ensemble_sentence(trial), _novelty_sentence(trial)]
    text = " ".join(sentence for sentence in [*sentences, _controls_sentence(trial)] if sentence)
    return f"<li><strong>{setup_text(trial.setup)}.</strong> {text}</li>"


def _accuracy_sentence(trial: Trial) -> str:
    best = trial.generated.best
    if best.value is None:
        return "The accuracy of generated networks is missing."
    text = f"The best generated network reaches {with_interval(best, DIGITS)}, the best original "
    text += f"{percent(trial.original.best.value, DIGITS)}: "
    if trial.difference is None:
        return text + "their difference is missing."
    gap = points(trial.difference, DIGITS)
    if trial.p is None:
        return text + f"{gap}, without a paired test."
    if trial.p >= NOISE_LEVEL:
        return text + f"no difference larger than noise ({gap}, {p_value(trial.p)})."
    word = "better" if trial.difference > 0 else "worse"
    return text + f"{word} by more than noise ({gap}, {p_value(trial.p)})."


def _ensemble_sentence(trial: Trial) -> str:
    if trial.ensemble.value is None:
        return ""
    text = f"The average of the originals' weights reaches {percent(trial.ensemble.value, DIGITS)}"
    pairs = [control.paired for control in trial.kinds if control.kind == ENSEMBLE and control.paired]
    if not pairs:
        return f"{text}."
    larger = "more than noise" if pairs[0].p < NOISE_LEVEL else "no more than noise"
    return f"{text}, {larger} away from the best generated network ({p_value(pairs[0].p)})."


def _novelty_sentence(trial: Trial) -> str:
    said = verdict(trial.similarity, trial.distance)
    if said is None:
        return "Whether generated networks are new or copies is open: nearness was not measured for both."
    measures = {"max similarity": trial.similarity, "distance to the nearest": trial.distance}
    parts = [
        f"{name} {decimal(novelty.generated, 2)} against {decimal(novelty.original, 2)} among originals"
        for name, novelty in measures.items()
        if novelty.z is not None
    ]
    return f"They are <em>{VERDICTS[said]}</em> (on average {listed(parts)})."


def _controls_sentence(trial: Trial) -> str:
    found = [control for control in trial.kinds if control.kind not in SUMMARISED]
    found = [control for control in found if control.best.value is not None]
    if not found:
        return "No noise or averaging control was measured."
    return f"Controls, the best of each: {listed(_control_text(control) for control in found)}."


def _control_text(control: Control) -> str:
    name = escape(kind_name(control.kind, control.setting))
    similarity = "" if control.similarity is None else f" (similarity {decimal(control.similarity, 2)})"
    return f"{name} {percent(control.best.value, DIGITS)}{similarity}"


def accuracy_table(found: list[Trial]) -> str:
    """Returns the table original / ensemble / generated: a row per trial; best, mean and median."""
    names = list(found[0].setup) if found else ["k", "subset"]
    head = (
        "<tr>"
        + "".join(f'<th scope="col" rowspan="2" class="text">{choice_title(name)}</th>' for name in names)
        + '<th scope="colgroup" colspan="3">Original</th><th scope="col">Ensemble</th>'
        '<th scope="colgroup" colspan="3">Generated</th>'
        '<th scope="colgroup" colspan="2">Difference of best</th></tr><tr>'
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
    yield cell(p_alone(trial.p))


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
    head = heads(titles, words=titles[: len(names) + 1])
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
    title = f"All kinds and controls ({several(len(rows), 'row')})"
    return f"<details{fold}><summary>{title}</summary>{body}</details>"


def _control_cells(control: Control) -> str:
    p = "–" if control.kind == GENERATED else p_alone(None if control.paired is None else control.paired.p)
    texts = (
        f"{control.networks:,}",
        _stacked(control.best),
        percent(control.mean, DIGITS),
        decimal(control.similarity),
        decimal(control.distance),
        p,
    )
    return cell(escape(kind_name(control.kind, control.setting)), header=True) + "".join(map(cell, texts))
