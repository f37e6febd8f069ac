"""The choice of settings on simulated surfaces: it ends, keeps its budget, and finds peaks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.features.choose import (
    Candidate,
    Chooser,
    SearchSpace,
    full_passes,
    most_fits,
    most_screened,
    next_candidates,
    screen_share,
)


def space_of(timesteps, blocks=7, pools=(1, 2, 4), heads=("linear", "mlp"), trials=10_000):
    settings = tuple((block, pool) for block in range(1, blocks + 1) for pool in pools)
    grid = timesteps * len(settings) * len(heads)
    return SearchSpace(tuple(range(timesteps)), settings, heads, most_fits(grid, len(heads), trials))


def play(space, value):
    """Looks at whatever is asked for until nothing is; returns all that was seen, in the order asked."""
    known = {}
    while asked := next_candidates(space, known):
        assert not set(asked) & set(known), "asked again for what is known"
        known |= {candidate: value(candidate) for candidate in asked}
    return known


def fits(known):
    return [candidate for candidate in known if candidate.head]


def screened(known):
    return {candidate.timestep for candidate in known if not candidate.head}


class Surface:
    """Accuracy that rises to one timestep and falls after it, with the best block, pool and head given."""

    def __init__(self, rises, falls, block, pool, head):
        self.heights = [*rises, *falls]
        self.best = len(rises) - 1
        self.block, self.pool, self.head = block, pool, head

    def __call__(self, candidate):
        height = self.heights[candidate.timestep] - 0.01 * abs(candidate.block - self.block)
        return (
            height
            - 0.001 * abs(candidate.pool - self.pool)
            - (candidate.head not in (None, self.head)) * 0.02
        )


@st.composite
def surfaces(draw, most=40):
    """Returns a surface and its number of timesteps."""
    steps = st.floats(0.01, 0.1)
    rises = draw(st.lists(steps, min_size=1, max_size=most // 2))
    falls = draw(st.lists(steps, max_size=most // 2))
    heights = [sum(rises[: place + 1]) for place in range(len(rises))]
    down = [heights[-1] - sum(falls[: place + 1]) for place in range(len(falls))]
    chosen = draw(
        st.tuples(st.integers(1, 7), st.sampled_from([1, 2, 4]), st.sampled_from(["linear", "mlp"]))
    )
    return Surface(heights, down, *chosen), len(heights) + len(down)


@given(surfaces())
def test_the_best_of_up_to_seven_timesteps_is_passed_and_of_more_the_next_but_one_at_most(case):
    surface, count = case
    known = play(space_of(count), surface)
    nearest = min(abs(candidate.timestep - surface.best) for candidate in fits(known))
    assert nearest <= (0 if count <= 7 else 1)


@given(surfaces(most=7))
def test_the_best_setting_and_head_of_the_whole_grid_are_found(case):
    surface, count = case
    space = space_of(count)
    grid = [
        Candidate(t, *setting, head)
        for t in space.timesteps
        for setting in space.settings
        for head in space.heads
    ]
    known = play(space, surface)
    assert max(known[candidate] for candidate in fits(known)) == max(map(surface, grid))


@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
)
def test_no_surface_makes_it_exceed_its_budgets(timesteps, blocks, heads, trials, seed):
    space = space_of(timesteps, blocks, heads=tuple(f"head-{n}" for n in range(heads)), trials=trials)
    known = play(space, lambda candidate: math.sin(hash((seed, *candidate[:3], str(candidate.head))) % 1000))
    assert 1 <= len(fits(known)) <= space.fits <= min(trials, space.grid)
    assert len(screened(known)) <= most_screened(timesteps)
    assert len({candidate.timestep for candidate in fits(known)}) <= full_passes(timesteps)
    assert {candidate.timestep for candidate in fits(known)} <= screened(known)


@pytest.mark.parametrize("timesteps", range(6, 101))
def test_passes_are_a_quarter_of_the_grid_and_fits_a_tenth(timesteps):
    assert full_passes(timesteps) + screen_share(timesteps) * most_screened(timesteps) <= timesteps / 4 + 1e-9
    assert most_fits(timesteps * 42, 2, 10_000) <= timesteps * 42 / 10


def test_every_head_is_tried_on_the_first_settings_and_the_better_half_on_the_next():
    space = space_of(7, heads=("a", "b", "c", "d"))
    good = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2, None: 0.0}
    known = play(space, lambda candidate: good[candidate.head] - 0.01 * candidate.block)
    counts = {head: sum(candidate.head == head for candidate in fits(known)) for head in space.heads}
    assert counts["a"] == counts["d"] < counts["c"] < counts["b"]
    first = [candidate.head for candidate in fits(known)[: 4 * counts["a"]]]
    assert {head: first.count(head) for head in space.heads} == dict.fromkeys(space.heads, counts["a"])


def test_settings_are_fitted_in_the_order_of_their_screens():
    space = space_of(7, heads=("linear",), trials=5)
    known = play(
        space,
        lambda candidate: (
            -abs(candidate.timestep - 3) - 0.1 * abs(candidate.block - 4) - 0.01 * candidate.pool
        ),
    )
    assert [(candidate.block, candidate.pool) for candidate in fits(known)[:3]] == [(4, 1), (4, 2), (4, 4)]
    assert len(fits(known)) == 5


def test_a_lucky_setting_does_not_outweigh_a_timestep_where_many_are_good():
    def value(candidate):
        lucky = (candidate.timestep, candidate.block, candidate.pool) == (5, 1, 1)
        return 0.8 if lucky else 0.7 - 0.05 * abs(candidate.timestep - 2)

    assert {candidate.timestep for candidate in fits(play(space_of(7), value))} == {2}


@pytest.mark.parametrize("failing", ["every screen at the peak", "everything", "one head"])
def test_failures_are_passed_over(failing):
    def value(candidate):
        bad = {
            "every screen at the peak": candidate.timestep == 3 and not candidate.head,
            "everything": True,
            "one head": candidate.head == "mlp",
        }
        return None if bad[failing] else 1 - 0.1 * abs(candidate.timestep - 3)

    known = play(space_of(7), value)
    timesteps = {candidate.timestep for candidate in fits(known)}
    assert timesteps == {"every screen at the peak": {2}, "everything": set(), "one head": {3}}[failing]
    if failing == "one head":
        assert sum(candidate.head == "linear" for candidate in fits(known)) > sum(
            candidate.head == "mlp" for candidate in fits(known)
        )


@pytest.mark.slow
@given(surfaces(), st.integers(0, 400))
def test_what_is_known_in_part_changes_nothing_of_what_follows(case, cut):
    surface, count = case
    space = space_of(count)
    whole = play(space, surface)
    part = dict(list(whole.items())[:cut])
    while asked := next_candidates(space, part):
        part |= {asked[0]: surface(asked[0])}  # one at a time, as in one process
    assert part == whole


def test_a_chooser_speaks_in_keys_and_knows_its_longest_way():
    space = space_of(7)
    candidates = [
        Candidate(t, *setting, head)
        for t in space.timesteps
        for setting in space.settings
        for head in (None, *space.heads)
    ]
    keys = {candidate: "/".join(map(str, candidate)) for candidate in candidates}
    chooser = Chooser(space, keys)
    known = {}
    while asked := chooser.next(known):
        known |= dict.fromkeys(asked, 0.5)
    assert set(known) <= set(keys.values())
    longest = chooser.longest()
    assert len(known) <= len(longest) == len(set(longest)) == 5 * 21 + space.fits
