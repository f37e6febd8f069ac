"""The choice of settings on simulated surfaces: it ends, keeps its budget, finds peaks; so do the published two."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.features.choose import (
    SCREEN_SHARE,
    Candidate,
    Chooser,
    SearchSpace,
    budget_of,
    full_passes,
    most_screened,
    most_screens,
    next_candidates,
    profiled,
)
from harness.features.choose_published import FREQUENCY, LOCAL
from harness.features.choose_screening import SCREENING, between, spread

METHODS = {"screening": SCREENING, "frequency": FREQUENCY, "local": LOCAL}


def space_of(timesteps, blocks=7, pools=(1, 2, 4), heads=("linear", "mlp"), trials=10_000):
    budget = budget_of(timesteps, blocks, len(pools), len(heads), trials)
    return SearchSpace(tuple(range(timesteps)), tuple(range(1, blocks + 1)), pools, heads, budget)


def play(space, value, method=SCREENING):
    """Looks at whatever is asked for until nothing is; returns all that was seen, in the order asked."""
    known = {}
    while asked := next_candidates(method, space, known):
        assert not set(asked) & set(known), "asked again for what is known"
        known |= {candidate: value(candidate) for candidate in asked}
    return known


def fits(known):
    return [candidate for candidate in known if candidate.head]


def screens(known):
    return [candidate for candidate in known if candidate.block is not None and not candidate.head]


def timesteps_of(candidates):
    return {candidate.timestep for candidate in candidates}


class Surface:
    """Accuracy that rises to one timestep and falls after it, with the best block, pool and head given."""

    def __init__(self, rises, falls, block, pool, head):
        self.heights = [*rises, *falls]
        self.best = len(rises) - 1
        self.block, self.pool, self.head = block, pool, head

    def __call__(self, candidate):
        if candidate.block is None:
            return 0.5
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
    nearest = min(abs(timestep - surface.best) for timestep in timesteps_of(fits(known)))
    assert nearest <= (0 if count <= 7 else 1)


@given(surfaces(most=7))
def test_the_best_head_and_a_setting_next_to_the_best_of_the_whole_grid_are_found(case):
    surface, count = case
    known = play(space_of(count), surface)
    best = Candidate(surface.best, surface.block, surface.pool, surface.head)
    found = max(fits(known), key=known.__getitem__)
    assert found.head == surface.head
    assert known[found] >= surface(best) - 0.01, "one block away"


@pytest.mark.parametrize("name", METHODS)
@given(
    st.integers(1, 60),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
)
def test_no_surface_makes_it_exceed_its_budgets(name, timesteps, blocks, heads, trials, seed):
    method = METHODS[name]
    space = space_of(timesteps, blocks, heads=tuple(f"head-{n}" for n in range(heads)), trials=trials)
    known = play(space, lambda candidate: math.sin(hash((seed, *map(str, candidate))) % 1000), method)
    assert 1 <= len(fits(known)) <= len(fits(known)) + len(screens(known)) <= space.budget
    assert space.budget <= min(trials, space.grid)
    assert len(timesteps_of(screens(known))) <= method.screened(space)
    assert len(timesteps_of(fits(known))) <= method.passed(space)
    assert len(known) - len(fits(known)) - len(screens(known)) == method.measured(space)


@pytest.mark.parametrize("timesteps", range(7, 101))
def test_fits_with_screens_are_a_tenth_of_the_grid_and_passes_less_than_three_quarters(timesteps):
    passes = full_passes(timesteps) + SCREEN_SHARE * most_screened(timesteps)
    assert passes <= 0.72 * timesteps
    assert space_of(timesteps).budget == timesteps * 7 * 3 * 2 // 10


@given(surfaces(most=12))
def test_on_one_peak_no_more_timesteps_are_passed_than_the_best_and_its_neighbours(case):
    surface, count = case
    known = play(space_of(count), surface)
    assert timesteps_of(fits(known)) <= {surface.best + one for one in (-2, -1, 0, 1, 2)}
    assert surface.best in timesteps_of(fits(known))


def test_fits_climb_where_screens_are_misleading():
    def value(candidate):
        seen = 3 if candidate.head is None else 1
        return -abs(candidate.timestep - seen) - 0.1 * abs(candidate.block - 4)

    known = play(space_of(7), value)
    assert timesteps_of(fits(known)) == {0, 1, 2, 3} or timesteps_of(fits(known)) == {1, 2, 3, 4}
    assert max(fits(known), key=known.__getitem__)[:2] == (1, 4)


def test_a_sufficient_budget_is_half_screens_and_profiles_two_blocks():
    space = space_of(7)
    known = play(space, lambda candidate: -abs(candidate.timestep - 3) - 0.1 * abs(candidate.block - 4))
    assert (space.budget, most_screens(space), profiled(space)) == (29, 14, 2)
    assert len(screens(known)) == 14
    assert sum(one.timestep != 3 for one in screens(known)) == 4 * 2
    assert profiled(space_of(7, trials=20)) == 1


def test_every_head_is_tried_on_the_first_settings_and_the_better_half_on_the_next():
    space = space_of(1, blocks=60, pools=(1,), heads=("a", "b", "c", "d"), trials=100)
    good = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2, None: 0.0}
    known = play(space, lambda candidate: good[candidate.head] - 0.01 * candidate.block)
    counts = {head: sum(candidate.head == head for candidate in fits(known)) for head in space.heads}
    assert 2 <= counts["a"] == counts["d"] < counts["c"] < counts["b"], "one lucky fit does not decide"
    first = [candidate.head for candidate in fits(known)[: 4 * counts["a"]]]
    assert {head: first.count(head) for head in space.heads} == dict.fromkeys(space.heads, counts["a"])


def test_settings_are_fitted_in_the_order_of_their_screens_and_then_around_the_best():
    space = space_of(5, heads=("linear",))
    known = play(
        space,
        lambda candidate: (
            -abs(candidate.timestep - 2) - 0.1 * abs(candidate.block - 4) - 0.01 * candidate.pool
        ),
    )
    order = sorted((one for one in screens(known) if one.timestep == 2), key=known.__getitem__, reverse=True)
    assert [one._replace(head=None) for one in fits(known)[:3]] == order[:3]
    assert Candidate(2, 4, 1, "linear") in known, "pool 1 is two steps away from the screened pool 4"


def test_a_small_budget_leaves_out_screens_and_never_the_fits():
    for trials in range(1, 30):
        known = play(space_of(7, trials=trials), lambda candidate: -abs(candidate.timestep - 5))
        assert len(fits(known)) >= trials / 3
        assert len(fits(known)) + len(screens(known)) == trials
        if trials >= 9:
            assert 5 in timesteps_of(fits(known))


def test_blocks_are_spread_and_the_bracket_is_halved():
    assert spread([3, 5, 8, 9, 11, 20, 30], 2) == [8, 11]
    assert spread([7], 2) == [7]
    assert spread(range(7), 3) == [1, 3, 5]
    assert between([1, 3, 5], 3, 7) == [2, 4]
    assert between([1, 3, 5], 1, 7) == [0, 2]
    assert between([1, 3, 5], 5, 7) == [4, 6]


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
    timesteps = timesteps_of(fits(known))
    if failing == "everything":
        assert timesteps == {3}, "the middle is tried"
    elif failing == "one head":
        assert 3 in timesteps
        assert sum(candidate.head == "linear" for candidate in fits(known)) > sum(
            candidate.head == "mlp" for candidate in fits(known)
        )
    else:
        assert max(fits(known), key=known.__getitem__).timestep == 3, "fits climb there"


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@given(surfaces(), st.integers(0, 400))
def test_what_is_known_in_part_changes_nothing_of_what_follows(name, case, cut):
    surface, count = case
    method, space = METHODS[name], space_of(count)
    whole = play(space, surface, method)
    part = dict(list(whole.items())[:cut])
    while asked := next_candidates(method, space, part):
        part |= {asked[0]: surface(asked[0])}  # one at a time, as in one process
    assert part == whole


@pytest.mark.parametrize("name", METHODS)
def test_a_chooser_speaks_in_keys_and_knows_its_longest_way(name):
    space = space_of(7)
    candidates = [
        Candidate(t, block, pool, head)
        for t in space.timesteps
        for block in space.blocks
        for pool in space.pools
        for head in (None, *space.heads)
    ]
    candidates += [Candidate(t, None, None, None) for t in space.timesteps]
    keys = {candidate: "/".join(map(str, candidate)) for candidate in candidates}
    chooser = Chooser(METHODS[name], space, keys)
    known = {}
    while asked := chooser.next(known):
        known |= dict.fromkeys(asked, 0.5)
    assert set(known) <= set(keys.values())
    longest = chooser.longest()
    assert len(known) <= len(longest) == len(set(longest))
    assert len(longest) == space.budget + (7 if name == "frequency" else 0)


def climbed(best, start, low, high):
    """Returns all positions that a hill climb on a cone sees, and where it ends; as in the paper's description."""
    here, seen = start, {start}
    while True:
        around = [
            (here[0] + dt, here[1] + db)
            for dt, db in ((-1, 0), (1, 0), (0, -1), (0, 1))
            if 0 <= here[0] + dt < high and low <= here[1] + db <= 7
        ]
        seen.update(around)
        there = min(around, key=lambda one: abs(one[0] - best[0]) + abs(one[1] - best[1]))
        if sum(map(abs, (there[0] - best[0], there[1] - best[1]))) >= sum(
            map(abs, (here[0] - best[0], here[1] - best[1]))
        ):
            return here, seen
        here = there


@pytest.mark.parametrize("best", [(5, 2), (0, 7), (3, 4)])
def test_local_search_climbs_from_the_middle_and_fits_pools_and_heads_where_it_ends(best):
    def value(candidate):
        slope = abs(candidate.timestep - best[0]) + abs(candidate.block - best[1])
        return -slope + 0.1 * (candidate.head == "mlp") + 0.1 * (candidate.pool == 1)

    end, seen = climbed(best, (3, 4), 1, 7)
    assert end == best
    known = list(play(space_of(7), value, LOCAL))
    first = known[: len(seen)]
    assert {(one.timestep, one.block) for one in first} == seen
    assert {(one.pool, one.head) for one in first} == {(4, "linear")}
    there = known[len(seen) : len(seen) + 5]
    assert {(one.timestep, one.block) for one in there} == {best}
    assert max(known, key=value) == Candidate(*best, 1, "mlp")


def test_the_largest_high_frequency_ratio_decides_about_the_timestep_and_fits_about_the_block():
    def value(candidate):
        if candidate.block is None:
            return {5: 0.9, 2: 0.8}.get(candidate.timestep, 0.1)
        return 1 - abs(candidate.block - 6) - (candidate.timestep == 5)

    known = list(play(space_of(7), value, FREQUENCY))
    assert known[:7] == [Candidate(timestep, None, None, None) for timestep in range(7)]
    assert {one.timestep for one in known[7:]} == {5}, "though 2 would have been better"
    assert {one.block for one in known[7:14]} == set(range(1, 8))
    assert {one.block for one in known[14:19]} == {6}
