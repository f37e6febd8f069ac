"""Study 2 in words and in its main table: are generated networks as good, are they new, and how do controls do?"""

from itertools import groupby
from typing import Any, NamedTuple

from markupsafe import Markup

from harness.report.figures.figure import choice_title, levels, succeeded
from harness.report.figures.kinds import kind_name
from harness.report.published.parameter_diffusion import beside, is_ablated
from harness.report.rendering import render
from harness.report.tables import Tables
from harness.report.trial_results import COLUMNS, ENSEMBLE, Setting, Trial
from harness.report.verdict import BETTER, MEANINGS, OPEN, SAME, WORSE
from harness.report.words import (
    NOISE_LEVEL,
    number,
    p_value,
    percent,
    plain,
    points,
    span,
    with_interval,
)

DIGITS = 2  # of a percentage: the test sets are large and the gaps small
SHOWN = 4  # trials described at once, those with the largest K; the rest are folded
MOST_ROWS = 30  # of a table that is not folded
# accuracies of a table without an interval
ALONE = [column for column in COLUMNS if column.endswith(("_mean_accuracy", "_median_accuracy"))]


class Newness(NamedTuple):
    """The verdict on one trial."""

    said: str
    meaning: str
    good: float | None  # share of generated networks that are new and as good as originals, 0 to 1

    @property
    def open(self) -> bool:
        """Whether the rules cannot decide."""
        return self.said == OPEN


class Told(NamedTuple):
    """One trial in words."""

    setup: str
    accuracies: list[str]  # sentences
    newness: Newness
    trivial: str  # a sentence


class Overview(NamedTuple):
    """All trials together, as numbers of trials."""

    trials: int
    permuted: int  # whose originals began from different networks
    judged: int  # with a paired test against originals
    better: int
    worse: int
    same: int
    measured: int  # whose newness is not open
    newness: list[str]  # each verdict that occurs, with its meaning and number
    tested: int  # with a paired test against a trivial control
    unbeaten: int  # where that does at least as well


class Reported(NamedTuple):
    """A row of published accuracies, from 0 to 1; None is not reported."""

    edition: str
    source: str
    accuracies: list[float | None]  # in the order of `harness.report.trial_results.COLUMNS`
    gain: float | None


class Group(NamedTuple):
    """Set-ups on one data set and network, and what is published for them."""

    settings: list[Setting]
    published: list[Reported]


def setup_text(setup: dict[str, Any]) -> str:
    """Returns "K = 200, subset strided"."""
    return ", ".join(
        f"K\u00a0=\u00a0{plain(value)}" if name == "k" else f"{choice_title(name).lower()} {plain(value)}"
        for name, value in setup.items()
    )


def to_html(found: list[Trial]) -> Markup:
    """Returns a summary of all trials, then a paragraph on each, the largest K first."""
    ordered = sorted(found, key=lambda trial: -(number(trial.setup["k"]) or 0))
    told = [_told(trial) for trial in ordered]
    return render("answer_weights.html", overview=overview(found), trials=told, shown=SHOWN)


def overview(found: list[Trial]) -> Overview:
    """Counts the verdicts."""
    judged = [t.verdict.against_originals for t in found if t.verdict.against_originals != OPEN]
    newness = [trial.verdict.newness for trial in found if trial.verdict.newness != OPEN]
    trivial = [t.verdict.against_trivial for t in found if t.verdict.against_trivial != OPEN]
    return Overview(
        trials=len(found),
        permuted=sum(trial.permuted for trial in found),
        judged=len(judged),
        better=judged.count(BETTER),
        worse=judged.count(WORSE),
        same=judged.count(SAME),
        measured=len(newness),
        newness=[
            f"{name}: {MEANINGS[name]} (in {newness.count(name)})" for name in MEANINGS if name in newness
        ],
        tested=len(trivial),
        unbeaten=len(trivial) - trivial.count(BETTER),
    )


def _told(trial: Trial) -> Told:
    sentences = (_accuracy_sentence(trial), _mean_sentence(trial), _ensemble_sentence(trial))
    return Told(
        setup_text(trial.setup),
        [sentence for sentence in sentences if sentence],
        newness_of(trial),
        trivial_sentence(trial),
    )


def _accuracy_sentence(trial: Trial) -> str:
    best = trial.generated.best
    if best.value is None:
        return "The accuracy of the generated networks is missing."
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
    ends = "" if gain.low is None else f"95\u202f% interval {span(gain, DIGITS)}, "
    gap = points(gain.value, DIGITS)
    return f"The mean generated network is {gap} from the mean original ({ends}{runs})."


def _ensemble_sentence(trial: Trial) -> str:
    if trial.ensemble.value is None:
        return ""
    text = f"The average of the originals' weights reaches {percent(trial.ensemble.value, DIGITS)}"
    pairs = [kind.paired for kind in trial.kinds if kind.kind == ENSEMBLE and kind.paired]
    if not pairs:
        return f"{text}."
    larger = "more than noise" if pairs[0].p_adjusted < NOISE_LEVEL else "not more than noise"
    return f"{text}, {larger} away from the best generated network ({p_value(pairs[0].p_adjusted)})."


def newness_of(trial: Trial) -> Newness:
    """Returns the verdict on a trial's newness."""
    said = trial.verdict.newness
    return Newness(said, MEANINGS[said], trial.newness["new_and_good_share"])


def trivial_sentence(trial: Trial) -> str:
    """Returns how the strongest trivial control compares with the generated networks."""
    control = trial.trivial
    if control is None:
        return "Neither averages nor Gaussian controls were measured."
    name = kind_name(control.kind, control.setting)
    text = f"The strongest trivial control, {name}, reaches {percent(control.best.value, DIGITS)}"
    if control.paired is None:
        return f"{text}, without a paired test."
    gap = f"{points(-control.paired.difference, DIGITS)}, {p_value(control.paired.p_adjusted)}"
    words = {SAME: "as well as the best generated network", BETTER: "less than it", WORSE: "more than it"}
    return f"{text}: {words[trial.verdict.against_trivial]} ({gap})."


def accuracy_table(found: list[Setting]) -> Markup:
    """Returns the table original / ensemble / generated: one row per set-up, with the published numbers beneath."""
    groups = [
        Group(list(rows), _reported(data, network))
        for (data, network), rows in groupby(found, key=lambda one: (one.data, one.network))
    ]
    rows = sum(len(group.settings) + len(group.published) for group in groups)
    return render(
        "accuracies.html",
        names=list(found[0].setup) if found else ["k"],
        runs=any(setting.runs > 1 for setting in found),
        groups=groups,
        rows=rows,
        folded=rows > MOST_ROWS,
        alone=ALONE,
        digits=DIGITS,
    )


def _reported(data: Any, network: Any) -> list[Reported]:
    found = []
    for one in beside(data, network):
        originals = [one.original, one.original_mean, None]
        numbers = [*originals, one.ensemble, one.generated, one.generated_mean, one.generated_median]
        known = one.original is not None and one.generated is not None
        gain = ((one.generated or 0) - (one.original or 0)) / 100 if known else None
        shares = [None if value is None else value / 100 for value in numbers]
        found.append(Reported(one.edition, one.source, shares, gain))
    return found


def published_note(tables: Tables) -> Markup:
    """Returns what the published numbers are, and whether they are comparable with the measured ones."""
    frame = succeeded(tables.weights)
    pairs = frame[["data", "network"]].drop_duplicates().itertuples(index=False)
    same = all(is_ablated(data, network) for data, network in pairs)
    here = [] if same else [value for column in ("data", "network") for value in levels(frame[column])]
    return render("published_weights.html", here=here)
