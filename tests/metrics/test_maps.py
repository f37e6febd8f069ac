"""Maps keep neighbours together, leave out what has no place, and are the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics import maps
from harness.metrics.maps import FEWEST, flat_map, thinned


def clusters(per_cluster=12, length=20, centres=3):
    draw = np.random.default_rng(0)
    middle = 30 * draw.normal(size=(centres, length))
    return (np.repeat(middle, per_cluster, 0) + draw.normal(size=(centres * per_cluster, length))).astype(
        np.float32
    )


@pytest.mark.parametrize("length", [2, 20, 200])
def test_neighbours_on_the_map_are_of_the_same_cluster(length, monkeypatch):
    monkeypatch.setattr(maps, "COMPONENTS", 30)
    places = flat_map(clusters(length=length), seed=0)
    assert places.shape == (36, 2)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(distance.argmin(1) // 12, np.arange(36) // 12)


def test_a_map_is_the_same_for_the_same_seed():
    points = clusters()
    np.testing.assert_array_equal(flat_map(points, 1), flat_map(points, 1))


def test_points_that_are_not_finite_are_left_out():
    points = clusters()
    broken = np.insert(points, [0, 20], np.nan, axis=0)
    broken[21, 1:] = 0
    broken[21, 0] = np.inf
    places = flat_map(broken, 0)
    assert list(np.flatnonzero(np.isnan(places).any(1))) == [0, 21]
    np.testing.assert_array_equal(np.delete(places, [0, 21], 0), flat_map(points, 0))


@pytest.mark.parametrize(
    "points",
    [
        clusters()[: FEWEST - 1],
        clusters(length=1),
        np.ones((20, 3), np.float32),
        np.zeros((0, 3), np.float32),
    ],
    ids=["few points", "one number", "all the same", "none"],
)
def test_what_cannot_be_mapped_has_no_places(points):
    places = flat_map(points, 0)
    assert places.shape == (len(points), 2)
    assert np.isnan(places).all()


def test_ten_points_are_enough():
    assert np.isfinite(flat_map(clusters()[:FEWEST], 0)).all()


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(10, 100))
def test_each_group_keeps_its_share_evenly_spread(counts, most):
    kept = thinned(counts, most)
    assert len(kept) == sum(counts)
    if sum(counts) <= most:
        assert kept.all()
        return
    parts = np.split(kept, np.cumsum(counts)[:-1])
    assert kept.sum() <= most + len(counts)
    for count, part in zip(counts, parts, strict=True):
        share = count * most / sum(counts)
        assert min(count, 1) <= part.sum() <= max(1, share)
        assert part.sum() >= share - 1
        gaps = np.diff(np.flatnonzero(part))
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
