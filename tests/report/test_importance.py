"""The importance of axes against the analysis of variance, on complete and on incomplete grids."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest

from harness.report import importance
from harness.report.importance import importances


def grid(*sizes: int, deviations: tuple[float, ...], seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    """Returns all combinations of levels, and values that add up from an effect of each level and a little noise."""
    draw = np.random.default_rng(seed)
    names = [f"axis{place}" for place in range(len(sizes))]
    levels = pd.DataFrame(list(itertools.product(*map(range, sizes))), columns=names)
    effects = [draw.normal(0, deviation, size) for deviation, size in zip(deviations, sizes, strict=True)]
    values = sum(effect[levels[name]] for effect, name in zip(effects, names, strict=True))
    return levels, pd.Series(values + draw.normal(0, 0.002, len(levels)))


def shares_of_variance(levels: pd.DataFrame, values: pd.Series) -> np.ndarray:
    """Returns the sums of squares of the main effects, as shares of their sum: right on complete grids."""
    between = [
        ((values.groupby(levels[name]).transform("mean") - values.mean()) ** 2).sum() for name in levels
    ]
    return np.array(between) / sum(between)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (4, 6, 3, 2), (12, 10, 3, 3)])
def test_on_a_complete_grid_it_is_the_share_of_the_variance(sizes: tuple[int, ...], seed: int) -> None:
    levels, values = grid(*sizes, deviations=(0.1, 0.06, 0.03, 0.05), seed=seed)
    found = importances(levels, values)
    assert sum(found.values()) == pytest.approx(1)
    assert [found[name] for name in levels] == pytest.approx(shares_of_variance(levels, values), abs=0.04)


def test_an_axis_is_credited_less_with_what_another_explains() -> None:
    """Half of the second axis, which changes nothing, was measured at the best two levels of the first alone."""
    by_forest, by_means = [], []
    for seed in range(4):
        levels, values = grid(10, 6, 4, deviations=(0.1, 0.0, 0.03), seed=seed)
        best = values.groupby(levels["axis0"]).mean().nlargest(2).index
        kept = (levels["axis1"] < 3) | levels["axis0"].isin(best)
        by_means.append(shares_of_variance(levels[kept], values[kept])[1])
        by_forest.append(importances(levels[kept], values[kept])["axis1"])
    assert min(by_means) > 0.1
    assert np.mean(by_forest) < 0.05
    assert np.median(by_forest) < 0.01


def test_the_same_rows_give_the_same_numbers() -> None:
    levels, values = grid(4, 6, 3, deviations=(0.1, 0.06, 0.03))
    assert importances(levels, values) == importances(levels.copy(), values.copy())


def test_names_and_missing_levels_are_levels() -> None:
    levels, values = grid(3, 4, deviations=(0.1, 0.05))
    named = levels.assign(axis0=levels["axis0"].map({0: "cnn", 1: "linear", 2: None}))
    assert importances(named, values) == pytest.approx(importances(levels, values))


def test_where_there_is_nothing_to_rank_optuna_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # importing it would raise
    levels, values = grid(3, 4, deviations=(0.1, 0.05))
    assert importances(levels[["axis0"]], values) == {}
    assert importances(levels.assign(axis1=1), values) == {}
    assert importances(levels, values * 0) == {}
    assert importances(levels[:0], values[:0]) == {}
    with pytest.raises(ImportError):
        importances(levels, values)


def test_of_many_rows_a_part_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, values = grid(12, 10, 3, 3, deviations=(0.1, 0.06, 0.03, 0.05))
    whole = importances(levels, values)
    monkeypatch.setattr(importance, "MOST", 800)
    found = importances(levels, values)
    assert found != whole
    assert found == pytest.approx(whole, abs=0.05)


def test_a_part_of_ten_thousand_rows_is_enough() -> None:
    levels, values = grid(25, 20, 5, 4, deviations=(0.1, 0.06, 0.03, 0.05))
    found = importances(levels, values)
    assert [found[name] for name in levels] == pytest.approx(shares_of_variance(levels, values), abs=0.04)
