"""The rules of the verdict on material of which one knows what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from harness.report.honest_panel import rules
from harness.report.verdict import (
    AVERAGES,
    BETTER,
    COLLAPSED,
    COPIES,
    FARTHER,
    MEANINGS,
    NEW,
    OPEN,
    SAME,
    WORSE,
    Evidence,
    judge,
)

K, HELD_OUT, GENERATED, NUMBERS = 60, 40, 80, 300


def z_score(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Mann-Whitney score without ties."""
    n, m = len(first), len(second)
    u = rankdata(np.concatenate([first, second]))[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


def evidence(generated: np.ndarray, held_out: np.ndarray, originals: np.ndarray) -> Evidence:
    """Measures what the rules look at; accuracies are left out."""
    near, near_held_out = (cdist(some, originals).min(1) for some in (generated, held_out))
    centre = originals.mean(0)
    to_mean = [np.linalg.norm(some - centre, axis=1) for some in (generated, held_out)]
    return Evidence(
        copying_z=z_score(near, near_held_out),
        mean_z=z_score(*to_mean),
        variance_ratio=float(generated.var(0, ddof=1).sum() / originals.var(0, ddof=1).sum()),
        distance_ratio=float(np.median(near) / np.median(near_held_out)),
        generated=len(generated),
        gain=None,
        p=None,
        trivial_gain=None,
        trivial_p=None,
    )


def independent(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns originals, held-out and fresh vectors that share nothing but their distribution."""
    scale = rng.uniform(0.5, 2, NUMBERS)
    return tuple(scale * rng.standard_normal((n, NUMBERS)) for n in (K, HELD_OUT, GENERATED))  # type: ignore[return-value]


def trajectory(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns originals, held-out and fresh checkpoints of one training that wanders about a minimum."""
    steps = np.zeros((1200, NUMBERS))
    for step in range(1, len(steps)):
        steps[step] = 0.98 * steps[step - 1] + 0.2 * rng.standard_normal(NUMBERS)
    later = steps[-900:]
    order = rng.permutation(len(later))[: K + HELD_OUT + GENERATED]
    return later[order[:K]], later[order[K : K + HELD_OUT]], later[order[K + HELD_OUT :]]


def averages(originals: np.ndarray, rng: np.random.Generator, of: int = 16) -> np.ndarray:
    return np.stack([originals[rng.choice(len(originals), of, False)].mean(0) for _ in range(GENERATED)])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("material", [independent, trajectory])
class TestConstructed:
    """Every kind of material gets its verdict, whether checkpoints are independent or follow each other."""

    def judged(self, material, seed: int, make) -> str:
        rng = np.random.default_rng([seed, 7])
        originals, held_out, fresh = material(rng)
        return judge(evidence(make(originals, fresh, rng), held_out, originals)).newness

    @pytest.mark.parametrize("noise", [1e-3, 0.05])
    def test_copies(self, material, seed: int, noise: float) -> None:
        def copies(originals, fresh, rng):
            return originals[rng.integers(0, K, GENERATED)] + noise * rng.standard_normal(fresh.shape)

        assert self.judged(material, seed, copies) == COPIES

    def test_copies_of_one_original(self, material, seed: int) -> None:
        def copies(originals, fresh, rng):
            return originals[3] + 0.01 * rng.standard_normal(fresh.shape)

        assert self.judged(material, seed, copies) == COPIES

    def test_averages_of_16(self, material, seed: int) -> None:
        assert self.judged(material, seed, lambda o, f, rng: averages(o, rng)) == AVERAGES

    def test_a_cluster_about_the_mean(self, material, seed: int) -> None:
        def cluster(originals, fresh, rng):
            return originals.mean(0) + 0.3 * (fresh - fresh.mean(0))

        assert self.judged(material, seed, cluster) == AVERAGES

    def test_far_noise(self, material, seed: int) -> None:
        def noisy(originals, fresh, rng):
            return originals[rng.integers(0, K, GENERATED)] + 4 * rng.standard_normal(fresh.shape)

        assert self.judged(material, seed, noisy) == FARTHER

    def test_one_spot_far_away(self, material, seed: int) -> None:
        def spot(originals, fresh, rng):
            return originals.mean(0) + 3 + 0.01 * rng.standard_normal(fresh.shape)

        assert self.judged(material, seed, spot) == COLLAPSED


@pytest.mark.parametrize("material", [independent, trajectory])
def test_fresh_draws_are_new_but_for_the_level_of_the_test(material) -> None:
    said = []
    for seed in range(20):
        originals, held_out, fresh = material(np.random.default_rng([seed, 11]))
        said.append(judge(evidence(fresh, held_out, originals)).newness)
    assert said.count(NEW) >= 16  # 5 % two-sided would be 19


NOTHING = Evidence(None, None, None, None, None, None, None, None, None)


def test_too_little_is_open() -> None:
    assert judge(NOTHING) == (OPEN, OPEN, OPEN)
    assert judge(NOTHING._replace(copying_z=-5.0, generated=4)).newness == OPEN
    assert judge(NOTHING._replace(copying_z=-5.0, generated=5)).newness == COPIES
    assert judge(NOTHING._replace(copying_z=-5.0)).newness == COPIES  # the rest may be missing
    assert judge(NOTHING._replace(mean_z=-5.0, variance_ratio=0.1)).newness == OPEN


@pytest.mark.parametrize(
    ("gain", "p", "said"),
    [(0.01, 0.01, BETTER), (-0.01, 0.01, WORSE), (0.01, 0.2, SAME), (0.0, 1.0, SAME), (0.01, None, OPEN)],
)
def test_goodness(gain: float, p: float | None, said: str) -> None:
    assert judge(NOTHING._replace(gain=gain, p=p)).against_originals == said
    assert judge(NOTHING._replace(trivial_gain=gain, trivial_p=p)).against_trivial == said


numbers = st.one_of(st.none(), st.floats(-30, 30))


@given(numbers, numbers, st.one_of(st.none(), st.floats(0, 9)), st.one_of(st.none(), st.floats(0, 9)))
def test_every_evidence_has_a_verdict_that_moves_one_way(z, mean_z, variance, ratio) -> None:
    given_ = NOTHING._replace(copying_z=z, mean_z=mean_z, variance_ratio=variance, distance_ratio=ratio)
    said = judge(given_).newness
    assert said in MEANINGS
    if z is not None and said in (NEW, FARTHER):
        assert z >= -1.96
        nearer = judge(given_._replace(copying_z=-2.0)).newness
        assert nearer in (COPIES, AVERAGES)


def test_rules_name_every_verdict() -> None:
    for name in MEANINGS:
        assert name.lower() in rules().lower()
