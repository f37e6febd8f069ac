"""Figures: the contract that every registered one keeps, and their numbers against plain pandas."""

import pandas as pd
import plotly.graph_objects as go
import pytest
import synthetic_results as synthetic

from harness.report.figures import FIGURES
from harness.report.figures.figure import Absent, Figure, axis_range, ramp, succeeded
from harness.report.figures.heatmap import grid
from harness.report.figures.lines import along, controls, lines
from harness.report.figures.over_k import tracks
from harness.report.figures.over_pool import best_over_pool
from harness.report.figures.parallel import settings
from harness.report.figures.similarity import clouds
from harness.report.figures.similarity_range import ranges
from harness.report.tables import Tables, from_arrow


@pytest.mark.parametrize("name", FIGURES.names())
class TestContract:
    """What the page relies on."""

    def test_words(self, name: str) -> None:
        figure = FIGURES.load(name)
        assert isinstance(figure, Figure)
        assert figure.title
        assert figure.study in ("features", "weights")
        assert figure.reading[0].isupper()
        assert figure.reading.endswith(".")

    def test_views(self, name: str, tables: Tables) -> None:
        views = FIGURES.load(name).views(tables)
        assert not isinstance(views, Absent)
        choices = [tuple(view.choice.items()) for view in views]
        assert len(set(choices)) == len(choices)
        assert len({tuple(view.choice) for view in views}) == 1
        for view in views:
            assert isinstance(view.figure, go.Figure)
            assert view.figure.data
            assert all(isinstance(value, str) for value in view.choice.values())

    def test_same_rows_same_figure(self, name: str, tables: Tables) -> None:
        first, second = (FIGURES.load(name).views(tables) for _ in range(2))
        assert [view.figure.to_json() for view in first] == [view.figure.to_json() for view in second]

    def test_no_rows(self, name: str) -> None:
        views = FIGURES.load(name).views(from_arrow(synthetic.arrow({})))
        assert isinstance(views, Absent)
        assert views.why.endswith(".")

    def test_all_failed(self, name: str, small_features: dict, small_weights: dict) -> None:
        broken = [
            {table: [synthetic.failed(row) for row in rows[table]]}
            for rows, table in ((small_features, "features"), (small_weights, "weights"))
        ]
        assert isinstance(FIGURES.load(name).views(from_arrow(synthetic.arrow(*broken))), Absent)

    def test_numbers_missing(self, name: str, small_features: dict, small_weights: dict) -> None:
        numbers = {
            column
            for rows in (*small_features.values(), *small_weights.values())
            for row in rows
            for column in row
            if "accuracy" in column or "similarity" in column
        }
        empty = [
            {
                table: [{**row, **dict.fromkeys(numbers & set(row))} for row in rows]
                for table, rows in part.items()
            }
            for part in (small_features, small_weights)
        ]
        assert isinstance(FIGURES.load(name).views(from_arrow(synthetic.arrow(*empty))), Absent)

    def test_single_trial(self, name: str, small_features: dict, small_weights: dict) -> None:
        part = {"features": small_features["features"][:1], "weights": small_weights["weights"][:1]}
        part["networks"] = [
            row for row in small_weights["networks"] if row["key"] == part["weights"][0]["key"]
        ]
        views = FIGURES.load(name).views(from_arrow(synthetic.arrow(part)))
        assert isinstance(views, Absent) or len(views) == 1


def chosen(tables: Tables, **values: object) -> pd.DataFrame:
    frame = tables.features
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def test_grid_is_the_rows_in_percent(tables: Tables) -> None:
    rows = chosen(tables, features="trained", pool=2, head="mlp")
    cells = grid(rows)
    assert (cells.blocks, cells.timesteps, cells.failed) == ([3, 6, 9], [0, 50], [])
    assert cells.block_names[0] == "up_blocks.1.attentions.0"
    for i, block in enumerate(cells.blocks):
        for j, timestep in enumerate(cells.timesteps):
            row = rows[(rows["block"] == block) & (rows["timestep"] == timestep)]
            assert cells.accuracy[i][j] == pytest.approx(100 * row["validation_accuracy"].item(), abs=1e-3)


def test_grid_shows_gaps_and_failures(small_features: dict) -> None:
    rows = [dict(row) for row in small_features["features"] if row["features"] == "trained"]
    rows = [row for row in rows if row["pool"] == 1 and row["head"] == "linear"]
    rows[0]["validation_accuracy"] = None
    rows[1] = synthetic.failed(rows[1])
    cells = grid(from_arrow(synthetic.arrow({"features": rows})).features)
    assert cells.accuracy[0] == [None, None]
    assert cells.failed == [(3, 50)]


def test_grid_averages_seeds(small_features: dict) -> None:
    row = small_features["features"][0]
    twice = [
        {**row, "validation_accuracy": 0.4},
        {**row, "key": "again", "seed": 1, "validation_accuracy": 0.6},
    ]
    assert grid(from_arrow(synthetic.arrow({"features": twice})).features).accuracy == [[50.0]]


@pytest.mark.parametrize(("x", "by"), [("block", "timestep"), ("timestep", "block")])
def test_lines_against_pandas(tables: Tables, x: str, by: str) -> None:
    frame = succeeded(tables.features)
    rows = chosen(tables, features="trained", pool=1, head="linear")
    found = lines(frame, rows, {"pool": "1", "head": "linear"}, x, by)
    for curve, level in zip(found.curves, sorted(rows[by].unique()), strict=True):
        expected = rows[rows[by] == level].sort_values(x)
        assert curve.name == f"{by} {int(level)}"
        assert curve.x == expected[x].tolist()
        assert curve.accuracy == pytest.approx((100 * expected["validation_accuracy"]).tolist(), abs=1e-3)
        assert curve.low == pytest.approx((100 * expected["validation_accuracy_low"]).tolist(), abs=1e-3)


def test_many_lines_have_a_short_legend() -> None:
    rows = synthetic.feature_rows(blocks=(1, 2), timesteps=range(40), pools=(1,), heads=("linear",), n=50)
    (view,) = along(from_arrow(synthetic.arrow(rows)), x="block", by="timestep")
    traces = view.figure.data
    assert len(traces) == 42
    assert sum(trace.showlegend is not False for trace in traces) == 10 + 2


def test_controls_have_the_same_choices(tables: Tables) -> None:
    frame = succeeded(tables.features)
    untrained, pixels = controls(frame, {"pool": "2", "head": "mlp"}, "block", [3.0, 9.0])
    same = chosen(tables, features="untrained", pool=2)  # was measured with the linear head alone
    expected = [100 * same[same["block"] == block]["validation_accuracy"].max() for block in (3, 6, 9)]
    assert untrained.accuracy == pytest.approx(expected, abs=1e-3)
    level = 100 * chosen(tables, features="pixels", head="mlp")["validation_accuracy"].item()
    assert pixels.accuracy == pytest.approx([level, level], abs=1e-3)
    assert pixels.x == [3.0, 9.0]


def test_best_over_pool_against_pandas(tables: Tables) -> None:
    rows = chosen(tables, features="trained")
    found = best_over_pool(succeeded(tables.features), rows, {})
    expected = rows.groupby(["head", "pool"])["validation_accuracy"].max()
    for curve, head in zip(found.curves, ("linear", "mlp"), strict=True):
        assert curve.accuracy == pytest.approx((100 * expected[head]).tolist(), abs=1e-3)


def test_parallel_coordinates_hold_every_setting(tables: Tables) -> None:
    rows = chosen(tables, features="trained")
    found = settings(rows)
    assert [axis.name for axis in found.axes] == ["block", "timestep", "pool", "head"]
    values = zip(*([axis.levels[place] for place in axis.places] for axis in found.axes), strict=True)
    got = {tuple(key): value for key, value in zip(values, found.accuracy, strict=True)}
    for row in rows.to_dict("records"):
        key = tuple(row[axis] for axis in ("block", "timestep", "pool", "head"))
        assert got[key] == pytest.approx(100 * row["validation_accuracy"], abs=1e-3)
    assert found.accuracy == sorted(found.accuracy)


def test_tracks_against_pandas(tables: Tables) -> None:
    rows = tables.weights[tables.weights["subset"] == "first"].sort_values("k")
    for track in tracks(rows):
        column = (
            "ensemble_accuracy" if track.kind == "ensemble" else f"{track.kind}_{track.statistic}_accuracy"
        )
        assert track.k == [1, 5, 20]
        assert track.accuracy == pytest.approx((100 * rows[column]).tolist(), abs=1e-3)
        if track.statistic == "best":
            assert track.low == pytest.approx((100 * rows[f"{column}_low"]).tolist(), abs=1e-3)
        else:
            assert track.low == [None] * 3


def test_clouds_hold_every_network_with_both_numbers(tables: Tables) -> None:
    rows = tables.networks[(tables.networks["k"] == 5) & (tables.networks["subset"] == "first")]
    found = clouds(rows, "test_accuracy")
    assert [cloud.kind for cloud in found[:4]] == ["original", "ensemble", "generated", "reconstructed"]
    assert [cloud.setting for cloud in found if cloud.kind == "noise"] == [0.001, 0.05, 0.15]
    for cloud in found:
        same = rows[rows["kind"] == cloud.kind]
        same = same if cloud.setting is None else same[same["setting"] == cloud.setting]
        assert cloud.similarity == pytest.approx(same["max_similarity"].tolist(), abs=1e-4)
        assert cloud.accuracy == pytest.approx((100 * same["test_accuracy"]).tolist(), abs=1e-3)


def test_ranges_against_pandas(tables: Tables) -> None:
    rows = tables.networks[tables.networks["subset"] == "first"]
    original, generated = ranges(rows)
    assert original.mean[0] is None  # one original has no other
    for found in (original, generated):
        groups = rows[rows["kind"] == found.kind].groupby("k")["max_similarity"]
        for values, expected in (
            (found.low, groups.min()),
            (found.mean, groups.mean()),
            (found.high, groups.max()),
        ):
            known = [value for value in values if value is not None]
            assert known == pytest.approx(expected.dropna().tolist(), abs=1e-4)


def test_axes_leave_room_and_stay_possible() -> None:
    assert axis_range([None], 0, 1) is None
    assert axis_range([0.5, 1.0, None], 0, 1) == pytest.approx([0.47, 1.02])
    assert ramp(1) != ramp(2)[:1]
    assert len(set(ramp(7))) == 7
