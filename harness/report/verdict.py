"""Whether generated networks are new and whether they are good, by rules that the page states."""

from typing import NamedTuple

from harness.report.words import NOISE_LEVEL

Z = 1.96  # beyond it a z-score is larger than noise, 5 % two-sided
HALF = 0.5
FEWEST = 5  # generated networks from which anything is said about them

COPIES, AVERAGES, COLLAPSED, NEW, FARTHER = "copies", "averages", "one spot", "new draws", "farther away"
OPEN, BETTER, SAME, WORSE = "open", "better", "as good", "worse"
MEANINGS = {
    COPIES: "nearer to an original than held-out checkpoints are",
    AVERAGES: "drawn to the originals' mean, as averages are",
    COLLAPSED: "much more alike than originals are, and not because they lie at the mean",
    NEW: "as far from every original as held-out checkpoints are",
    FARTHER: "held-out checkpoints are nearer to the originals",
    OPEN: "nearness was not measured, or on too few networks",
}
RULES = f"""
<p>Held-out checkpoints are those that nothing learnt from. Z<sub>U</sub> is the Mann-Whitney z-score of distances to
the nearest original, generated networks against held-out checkpoints (against originals among themselves where fewer
than two are held out), and Z<sub>mean</sub> the same for distances to the originals' mean. The first rule that holds
decides.</p><ol>
<li><strong>Open</strong>: Z<sub>U</sub> is missing, or there are fewer than {FEWEST} generated networks.</li>
<li><strong>Copies</strong>: Z<sub>U</sub> &lt; −{Z}, and either Z<sub>mean</sub> is not below −{Z} or the median
distance is less than half of the held-out checkpoints'.</li>
<li><strong>Averages</strong>: Z<sub>mean</sub> &lt; −{Z}, and either Z<sub>U</sub> &lt; −{Z} or the variance is less
than half of the originals'.</li>
<li><strong>One spot</strong>: the variance is less than half of the originals'.</li>
<li><strong>New draws</strong>: Z<sub>U</sub> is at most {Z}: not told apart from held-out checkpoints.</li>
<li><strong>Farther away</strong>: Z<sub>U</sub> &gt; {Z}.</li></ol>
<p>Better or worse is said where the exact McNemar test of two networks, each the best of its kind on validation, has
p &lt; {NOISE_LEVEL} after Holm's correction for the number of trials; else they count as equally good. With K = 1
the mean is the original, and Z<sub>mean</sub> is not used.</p>"""


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
    trivial_p: float | None  # adjusted likewise


class Verdict(NamedTuple):
    """What the rules say, in keys of `MEANINGS` and in OPEN, BETTER, SAME, WORSE."""

    newness: str
    against_originals: str
    against_trivial: str


def judge(evidence: Evidence) -> Verdict:
    """Applies `RULES`."""
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
    alike = _below(evidence.variance_ratio, HALF)
    if central and (near or alike):
        return AVERAGES
    if alike:
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
