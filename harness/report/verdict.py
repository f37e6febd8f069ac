"""Whether generated networks are new and whether they are good, by rules stated on the page."""

from typing import NamedTuple

from harness.report.words import NOISE_LEVEL

Z = 1.96  # beyond it a z-score is larger than noise, 5 % two-sided
HALF = 0.5
FEWEST = 5  # generated networks that a verdict needs

COPIES, AVERAGES, COLLAPSED, NEW, FARTHER = "copies", "averages", "one spot", "new draws", "farther away"
OPEN, BETTER, SAME, WORSE = "open", "better", "as good", "worse"
MEANINGS = {
    COPIES: "nearer to an original than held-out checkpoints are",
    AVERAGES: "close to the originals' mean, as averages are",
    COLLAPSED: "much more similar to each other than originals are, but not because they are near the mean",
    NEW: "as far from every original as held-out checkpoints are",
    FARTHER: "held-out checkpoints are nearer to the originals",
    OPEN: "distances were not measured, or on too few networks",
}


class Evidence(NamedTuple):
    """What the rules look at; None is missing."""

    copying_z: float | None
    mean_z: float | None
    variance_ratio: float | None
    distance_ratio: float | None
    generated: int | None  # networks
    gain: float | None  # test accuracy, best generated less best original
    p: float | None  # of that difference, adjusted for the number of trials
    trivial_gain: float | None  # best generated less the strongest trivial control
    trivial_p: float | None  # adjusted in the same way


class Verdict(NamedTuple):
    """The verdict: a key of `MEANINGS`, and twice one of OPEN, BETTER, SAME, WORSE."""

    newness: str
    against_originals: str
    against_trivial: str


def judge(evidence: Evidence) -> Verdict:
    """Applies the rules that `templates/rules.html` states."""
    return Verdict(
        _newness(evidence),
        _goodness(evidence.gain, evidence.p),
        _goodness(evidence.trivial_gain, evidence.trivial_p),
    )


def _newness(evidence: Evidence) -> str:
    z, count = evidence.copying_z, evidence.generated
    if z is None or (count is not None and count < FEWEST):
        return OPEN
    near, central = z < -Z, _below(evidence.mean_z, -Z)
    if near and (not central or _below(evidence.distance_ratio, HALF)):
        return COPIES
    similar = _below(evidence.variance_ratio, HALF)
    if central and (near or similar):
        return AVERAGES
    if similar:
        return COLLAPSED
    return NEW if z <= Z else FARTHER


def _below(value: float | None, limit: float) -> bool:
    return value is not None and value < limit


def _goodness(gain: float | None, p: float | None) -> str:
    if gain is None or p is None:
        return OPEN
    if p >= NOISE_LEVEL or gain == 0:
        return SAME
    return BETTER if gain > 0 else WORSE
