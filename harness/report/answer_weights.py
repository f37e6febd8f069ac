"""Study 2 in words and in its main table: are generated networks as good, are they new, what do the controls say?"""

from collections.abc import Iterable
from typing import Any

from harness.report.figures.figure import choice_title, levels, succeeded
from harness.report.figures.kinds import kind_name
from harness.report.published.parameter_diffusion import Beside, beside, is_ablated
from harness.report.setups import Mean
from harness.report.tables import Tables
from harness.report.trials import COLUMNS, ENSEMBLE, Setting, Trial
from harness.report.verdict import BETTER, MEANINGS, OPEN, SAME, WORSE
from harness.report.words import (
    NOISE_LEVEL,
    Estimate,
    cell,
    escape,
    interval,
    listed,
    number,
    p_value,
    percent,
    points,
    several,
    table,
    with_interval,
)

DIGITS = 2  # of a percentage: the test sets are large and the gaps small
SHOWN = 4  # trials described at once, those with the largest K; the rest can be unfolded
MOST_ROWS = 30  # of a table that stands unfolded
UNKNOWN = "–"  # in a published row: not reported


def setup_text(setup: dict[str, Any]) -> str:
    """Returns "K = 200, subset strided", escaped."""
    return ", ".join(
        f"K\u00a0=\u00a0{escape(value)}" if name == "k" else f"{choice_title(name).lower()} {escape(value)}"
        for name, value in setup.items()
    )


def to_html(found: list[Trial]) -> str:
    """Returns what all trials say together, then a paragraph for each, the largest K first."""
    if not found:
        return "<p>No trial succeeded, so there is no answer.</p>"
    ordered = sorted(found, key=lambda trial: -(number(trial.setup["k"]) or 0))
    items = [_item(trial) for trial in ordered]
    text = f'<p class="lead">{_overview(found)}</p>{_permuted(found)}<ul>{"".join(items[:SHOWN])}</ul>'
    if items[SHOWN:]:
        rest = several(len(items) - SHOWN, "more trial")
        text += f"<details><summary>{rest}</summary><ul>{''.join(items[SHOWN:])}</ul></details>"
    note = "Best always means selected on validation; accuracies are on test."
    if len(found) > 1:
        note += (
            f" The p-values are corrected for there being {several(len(found), 'trial')}, by Holm's method and each "
            "comparison by itself."
        )
    return f'{text}<p class="note">{note}</p>'


def _overview(found: list[Trial]) -> str:
    judged = [t.verdict.against_originals for t in found if t.verdict.against_originals != OPEN]
    if judged:
        text = (
            f"The best generated network is better than the best original in <strong>{judged.count(BETTER)}"
        )
        text += f"</strong> of {several(len(judged), 'trial')}, worse in <strong>{judged.count(WORSE)}</strong>, and "
        text += f"not distinguishable from it in <strong>{judged.count(SAME)}</strong>."
    else:
        text = "No trial has a paired test of generated against original networks."
    newness = [trial.verdict.newness for trial in found if trial.verdict.newness != OPEN]
    if newness:
        said = (
            f"{name}: {MEANINGS[name]} (in {newness.count(name)})" for name in MEANINGS if name in newness
        )
        measured = f"{several(len(newness), 'trial')} where nearness was measured"
        text += f" By the rules below, in {measured}, they are {listed(said)}."
    else:
        text += " Whether they are new or copies is open: nearness was measured in no trial."
    trivial = [t.verdict.against_trivial for t in found if t.verdict.against_trivial != OPEN]
    if trivial:
        text += " A trivial control, of averages or of Gaussian draws, does at least as well in <strong>"
        text += f"{len(trivial) - trivial.count(BETTER)}</strong> of {several(len(trivial), 'trial')}."
    return text


def _permuted(found: list[Trial]) -> str:
    count = sum(trial.permuted for trial in found)
    if not count:
        return ""
    where = "the originals" if count == len(found) else f"in {several(count, 'trial')} the originals"
    return (
        f'<p class="failure"><strong>Hard case:</strong> {where} come from trainings that began from different '
        "networks. Their neurons may be swapped, so averages and mixtures of their weights mean little; it is known "
        "to break this method.</p>"
    )


def _item(trial: Trial) -> str:
    sentences = [_accuracy_sentence(trial), _mean_sentence(trial), _ensemble_sentence(trial)]
    sentences += [newness_sentence(trial), trivial_sentence(trial)]
    text = " ".join(sentence for sentence in sentences if sentence)
    return f"<li><strong>{setup_text(trial.setup)}.</strong> {text}</li>"


def _accuracy_sentence(trial: Trial) -> str:
    best = trial.generated.best
    if best.value is None:
        return "The accuracy of generated networks is missing."
    text = f"The best generated network reaches {with_interval(best, DIGITS)}, the best original "
    text += f"{percent(trial.original.best.value, DIGITS)}: "
    if trial.gain.value is None:
        return text + "their difference is missing."
    gap = points(trial.gain.value, DIGITS)
    if trial.p is None:
        return text + f"{gap}, without a paired test."
    if trial.verdict.against_originals == SAME:
        return text + f"no difference larger than noise ({gap}, {p_value(trial.p_adjusted)})."
    return (
        text + f"{trial.verdict.against_originals} by more than noise ({gap}, {p_value(trial.p_adjusted)})."
    )


def _mean_sentence(trial: Trial) -> str:
    gain = trial.mean_gain
    if gain.value is None:
        return ""
    runs = "one run" if gain.runs == 1 else f"{gain.runs} runs"
    ends = "" if gain.low is None else f"95\u202f% interval {gain_interval(gain)}, "
    return (
        f"The mean generated network is {points(gain.value, DIGITS)} from the mean original ({ends}{runs})."
    )


def _ensemble_sentence(trial: Trial) -> str:
    if trial.ensemble.value is None:
        return ""
    text = f"The average of the originals' weights reaches {percent(trial.ensemble.value, DIGITS)}"
    pairs = [kind.paired for kind in trial.kinds if kind.kind == ENSEMBLE and kind.paired]
    if not pairs:
        return f"{text}."
    larger = "more than noise" if pairs[0].p_adjusted < NOISE_LEVEL else "no more than noise"
    return f"{text}, {larger} away from the best generated network ({p_value(pairs[0].p_adjusted)})."


def newness_sentence(trial: Trial) -> str:
    """Returns the verdict on newness in words."""
    said = trial.verdict.newness
    if said == OPEN:
        return f"Whether generated networks are new or copies is open: {MEANINGS[OPEN]}."
    share = trial.newness["new_and_good_share"]
    good = "" if share is None else f"; {percent(share, 0)} are new and as accurate as the median original"
    return f"Generated networks are <em>{said}</em>: {MEANINGS[said]}{good}."


def trivial_sentence(trial: Trial) -> str:
    """Returns what the strongest trivial control reaches beside generated networks."""
    control = trial.trivial
    if control is None:
        return "No average and no Gaussian control was measured."
    name = escape(kind_name(control.kind, control.setting))
    text = f"The strongest trivial control, {name}, reaches {percent(control.best.value, DIGITS)}"
    if control.paired is None:
        return f"{text}, without a paired test."
    gap = f"{points(-control.paired.difference, DIGITS)}, {p_value(control.paired.p_adjusted)}"
    words = {SAME: "as well as the best generated network", BETTER: "less than it", WORSE: "more than it"}
    return f"{text}: {words[trial.verdict.against_trivial]} ({gap})."


def accuracy_table(found: list[Setting]) -> str:
    """Returns the table original / ensemble / generated: a row per setup, the published numbers beneath."""
    names = list(found[0].setup) if found else ["k"]
    runs = any(setting.runs > 1 for setting in found)
    groups = (("Original", 3), ("Ensemble", 1), ("Generated", 3), ("Difference of best", 1))
    columns = ("best", "mean", "median", "accuracy", "best", "mean", "median", "points")
    head = (
        "<tr>"
        + "".join(f'<th scope="col" rowspan="2" class="text">{choice_title(name)}</th>' for name in names)
        + ('<th scope="col" rowspan="2">Runs</th>' if runs else "")
        + "".join(
            f'<th scope="{"col" if span == 1 else "colgroup"}" colspan="{span}">{title}</th>'
            for title, span in groups
        )
        + "</tr><tr>"
        + "".join(f'<th scope="col">{name}</th>' for name in columns)
        + "</tr>"
    )
    rows = []
    for place, setting in enumerate(found):
        rows.append("".join(_accuracy_cells(setting, runs)))
        following = found[place + 1] if place + 1 < len(found) else None
        if following is None or (following.data, following.network) != (setting.data, setting.network):
            span = len(names) + runs
            rows += ["".join(_beside_cells(one, span)) for one in beside(setting.data, setting.network)]
    text = table(
        "Test accuracy; best is selected on validation and has its 95\u202f% interval",
        head,
        rows,
        dense=len(names) > 1,
    )
    if runs:
        text += (
            '<p class="note">Of several runs these are means, and where they differ the interval is Student\'s: '
            "over seeds, or over runs of the generator where there is one seed.</p>"
        )
    if len(rows) <= MOST_ROWS:
        return text
    return f"<details><summary>Accuracies ({several(len(rows), 'row')})</summary>{text}</details>"


def _accuracy_cells(setting: Setting, runs: bool) -> Iterable[str]:
    yield from (cell(escape(value), header=True) for value in setting.setup.values())
    if runs:
        yield cell(str(setting.runs))
    for column in COLUMNS:
        mean = setting.accuracies[column]
        alone = column.endswith(("_mean_accuracy", "_median_accuracy"))
        yield cell(percent(mean.value, DIGITS) if alone else _mean(mean))
    gain = setting.gain
    value = points(gain.value, DIGITS).split("\u00a0")[0]
    known = gain.low is not None and gain.high is not None
    ends = f"<small>{gain_interval(gain)}</small>" if known else ""
    tested = gain.value is not None and setting.runs == 1
    yield cell(value + ends + (f"<small>{p_value(setting.p_adjusted)}</small>" if tested else ""))


def gain_interval(gain: Mean | Estimate) -> str:
    """Returns "−0.41 to +0.60" of a difference in points."""
    low, high = (points(end, DIGITS).split("\u00a0")[0] for end in (gain.low, gain.high))
    return f"{low} to {high}"


def _mean(mean: Mean) -> str:
    value = percent(mean.value, DIGITS)
    if mean.value is None or mean.low is None:
        return value
    return f"<strong>{value}</strong><small>{interval(Estimate(*mean), DIGITS)}</small>"


def _beside_cells(one: Beside, span: int) -> Iterable[str]:
    text = f"published, edition {one.edition}<small>{escape(one.source)}; best chosen on test</small>"
    yield f'<th scope="row" colspan="{span}">{text}</th>'
    numbers = (one.original, one.original_mean, None, one.ensemble)
    for value in (*numbers, one.generated, one.generated_mean, one.generated_median):
        yield f"<td>{UNKNOWN if value is None else percent(value / 100)}</td>"
    known = one.original is not None and one.generated is not None
    gap = points(((one.generated or 0) - (one.original or 0)) / 100, 1).split("\u00a0")[0]
    yield f"<td>{gap if known else UNKNOWN}</td>"


def published_note(tables: Tables) -> str:
    """Returns what the published numbers are, and whether they may be compared with what was measured."""
    frame = succeeded(tables.weights)
    pairs = frame[["data", "network"]].drop_duplicates().itertuples(index=False)
    text = (
        "are grey and hollow: arXiv 2402.13144, CIFAR-100 and ResNet-18, by edition; their best is chosen on test, "
        "where ours is chosen on validation."
    )
    if all(is_ablated(data, network) for data, network in pairs):
        return text
    here = ", ".join(escape(value) for column in ("data", "network") for value in levels(frame[column]))
    return (
        f"{text} They come from <strong>another data set or network</strong> than some of what was measured here "
        f"({here}): compare the shapes, not the heights."
    )
