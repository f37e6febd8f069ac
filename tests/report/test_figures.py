"""Figures: the contract suite on every registered one, and their numbers against plain pandas."""

import json

import pandas as pd
import pytest
import synthetic_results as synthetic
from scipy.stats import spearmanr

from harness.report.figures import FIGURES, ablation, over_axis
from harness.report.figures.figure import Absent, Figure, axis_range, error_bars, ramp, succeeded
from harness.report.figures.finetuned import draw as draw_pairs
from harness.report.figures.finetuned import pairs
from harness.report.figures.heatmap import grid
from harness.report.figures.lines import controls, lines
from harness.report.figures.over_parameters import best_heads
from harness.report.figures.over_pool import best_over_pool
from harness.report.figures.parallel import settings
from harness.report.figures.probes import columns
from harness.report.figures.scatter import clouds, most_a_view, thinned, traces
from harness.report.figures.search_regret import regret
from harness.report.figures.similarity_cases import bars, published_bars, with_largest
from harness.report.figures.similarity_range import published_range, ranges
from harness.report.tables import Tables, from_arrow
from harness.report.transfer import transfer
from harness.testing.figures import FigureContract


@pytest.fixture(scope="module")
def whole(study_one: dict, small_weights: dict) -> Tables:
    """Rows of all kinds."""
    return from_arrow(synthetic.arrow(study_one, small_weights))


@pytest.fixture(scope="module")
def failed(study_one: dict, small_weights: dict) -> Tables:
    """The same, of which no trial succeeded."""
    parts = ((study_one, ("features", "similarity", "generation")), (small_weights, ("weights",)))
    broken = [
        {table: [synthetic.failed(row) for row in rows[table]] for table in tables} for rows, tables in parts
    ]
    return from_arrow(synthetic.arrow(*broken))


@pytest.fixture(scope="module")
def without_numbers(study_one: dict, small_weights: dict) -> Tables:
    """The same, with every measured number missing."""

    numbers = ("accuracy", "similarity", "cka", "frechet", "kernel", "grid", "_x", "_y")

    def measured(column: str) -> bool:
        return any(word in column for word in numbers)

    empty = [
        {
            table: [{**row, **dict.fromkeys(filter(measured, row))} for row in rows]
            for table, rows in part.items()
        }
        for part in (study_one, small_weights)
    ]
    return from_arrow(synthetic.arrow(*empty))


@pytest.fixture(scope="module")
def single(study_one: dict, small_weights: dict) -> Tables:
    """One row of each table, and the networks of its trial."""
    parts = {**small_weights, **study_one}
    part = {table: parts[table][:1] for table in ("features", "similarity", "generation", "weights")}
    part["networks"] = [row for row in small_weights["networks"] if row["key"] == part["weights"][0]["key"]]
    return from_arrow(synthetic.arrow(part))


class TestFigures(FigureContract):
    """Every registered figure."""

    @pytest.fixture(params=FIGURES.names())
    def figure(self, request: pytest.FixtureRequest) -> Figure:
        return FIGURES.load(request.param)

    @pytest.fixture
    def tables(self, whole: Tables) -> Tables:
        return whole

    def test_no_rows(self, figure: Figure) -> None:
        assert isinstance(figure.views(from_arrow(synthetic.arrow({}))), Absent)

    def test_all_failed(self, figure: Figure, failed: Tables) -> None:
        assert isinstance(figure.views(failed), Absent)

    def test_numbers_missing(self, figure: Figure, without_numbers: Tables) -> None:
        assert isinstance(figure.views(without_numbers), Absent)

    def test_single_trial(self, figure: Figure, single: Tables) -> None:
        views = figure.views(single)
        assert isinstance(views, Absent) or len(views) == len({view.choice.get("space") for view in views})


def frame_of(parts: dict, **values: object) -> pd.DataFrame:
    """Returns the rows of `features` that succeeded and have these values."""
    tables = from_arrow(synthetic.arrow(parts))
    return chosen(tables.with_frames(features=succeeded(tables.features)), **values)


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
    (view,) = over_axis.BLOCK.views(from_arrow(synthetic.arrow(rows)))
    traces = view.figure.data
    assert len(traces) == 42
    assert sum(trace.get("showlegend") is not False for trace in traces) == 10 + 2


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


def test_timesteps_may_be_read_as_noise(whole: Tables) -> None:
    views = over_axis.TIMESTEP.views(whole)
    by_axis = {}
    for view in views:
        if {**view.choice, "axis": ""} == {**views[0].choice, "axis": ""}:
            by_axis[view.choice["axis"]] = view.figure
    assert list(by_axis) == ["timestep", "σ", "log-SNR"]
    curves = {axis: figure.data[0] for axis, figure in by_axis.items()}
    levels = [synthetic.noise_level(t) for t in (1, 50, 300)]
    assert curves["timestep"]["x"] == [1, 50, 300]
    assert curves["σ"]["x"] == [level["sigma"] for level in levels]
    assert curves["log-SNR"]["x"] == sorted(level["log_snr"] for level in levels)
    assert curves["log-SNR"]["y"] == curves["timestep"]["y"][::-1] == curves["σ"]["y"][::-1]
    assert by_axis["σ"].layout["xaxis"]["type"] == "log"


def test_rows_without_noise_levels_have_one_axis(small_features: dict) -> None:
    rows = [{**row, "sigma": None} for row in small_features["features"]]
    views = over_axis.TIMESTEP.views(from_arrow(synthetic.arrow({"features": rows})))
    assert all(set(view.choice) == {"pool", "head"} for view in views)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["block_by_timestep", "over_block", "over_timestep", "over_pool", "over_parameters"]
)
@pytest.mark.parametrize("column", ["regulariser", "caching", "data"])
def test_unlike_rows_are_never_averaged(small_features: dict, name: str, column: str) -> None:
    def accuracies(*parts: dict) -> set:
        views = FIGURES.load(name).views(from_arrow(synthetic.arrow(*parts)))
        found = set()
        for view in views:
            for trace in view.figure.data:
                values = trace.get("z") or [trace["y"]]
                found |= {v for row in values for v in row if v is not None}
        return found

    trained = [row for row in small_features["features"] if row["features"] == "trained"]
    other = [
        {
            **row,
            "key": f"o{row['key']}",
            column: "other",
            "validation_accuracy": row["validation_accuracy"] / 2,
        }
        for row in trained
    ]
    first, second = {"features": trained}, {"features": other}
    assert accuracies(first, second) == accuracies(first) | accuracies(second)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["over_block", "over_timestep", "over_pool", "parallel", "transfer_ranks"])
def test_grids_leave_other_kinds_out(study_one: dict, whole: Tables, name: str) -> None:
    grid_rows = [
        row for row in study_one["features"] if row["features"] in ("trained", "untrained", "pixels")
    ]
    alone = FIGURES.load(name).views(from_arrow(synthetic.arrow({"features": grid_rows})))
    assert FIGURES.load(name).views(whole) == alone


def test_heads_stand_at_their_best_setting(study_one: dict) -> None:
    rows = frame_of(study_one, data="cifar10", regulariser="none")
    one, several = best_heads(rows)
    assert (one.kind, several.kind) == ("trained", "combined")
    for head, accuracy, parameters in zip(one.heads, one.accuracy, one.parameters, strict=True):
        same = rows[(rows["features"] == "trained") & (rows["head"] == head)]
        best = same.loc[same["validation_accuracy"].idxmax()]
        assert accuracy == pytest.approx(100 * best["validation_accuracy"], abs=1e-3)
        assert parameters == best["parameter_count"]
    assert one.parameters == sorted(one.parameters)
    assert several.settings == ["3+6+9 at t 1+50+300"]


def test_finetuned_rows_have_their_frozen_twins(study_one: dict) -> None:
    rows = frame_of(study_one, data="cifar10")
    own = columns(from_arrow(synthetic.arrow(study_one)))
    found = pairs(rows, own)
    assert found.settings == [f"block {block}, timestep 1, pool 1, head linear" for block in (6, 9)]
    for place, block in enumerate((6, 9)):
        same = rows[
            (rows["block"] == block)
            & (rows["timestep"] == 1)
            & (rows["pool"] == 1)
            & (rows["head"] == "linear")
        ]
        same = same[same["regulariser"] == "none"].set_index("features")["validation_accuracy"]
        assert found.frozen.accuracy[place] == pytest.approx(100 * same["trained"], abs=1e-3)
        assert found.finetuned.accuracy[place] == pytest.approx(100 * same["finetuned"], abs=1e-3)
    trained = rows[rows["features"] == "trained"]["validation_accuracy"]
    assert found.best_frozen == pytest.approx(100 * trained.max(), abs=1e-3)
    assert [trace["name"] for trace in draw_pairs(found).data][-1] == "fine-tuned"
    adapted = [trace["name"] for trace in draw_pairs(found._replace(tuning="lora rank 8")).data]
    assert adapted[-1] == "fine-tuned (lora rank 8)"
    alone = pairs(rows[rows["features"] == "finetuned"], own)
    assert alone.frozen.accuracy == [None, None]
    assert alone.best_frozen is None


def test_transfer_against_scipy_and_a_loop(study_one: dict, whole: Tables) -> None:
    found = transfer(whole)
    assert found is not None
    assert found.data == ["cifar10", "cub-200"]
    by_setting = {name: {} for name in found.data}
    for row in study_one["features"]:
        if row["features"] == "trained":
            setting = tuple(row[axis] for axis in ("regulariser", "block", "timestep", "pool", "head"))
            by_setting[row["data"]][setting] = row["validation_accuracy"]
    first, second = (by_setting[name] for name in found.data)
    assert first.keys() == second.keys()
    expected = spearmanr([first[s] for s in first], [second[s] for s in first]).statistic
    assert found.correlation[0][1] == pytest.approx(expected)
    assert found.correlation[0][0] == pytest.approx(1)
    for i, chosen_on in enumerate(found.data):
        for j, used_on in enumerate(found.data):
            best = max(by_setting[chosen_on], key=by_setting[chosen_on].__getitem__)
            lost = max(by_setting[used_on].values()) - by_setting[used_on][best]
            assert found.regret[i][j] == pytest.approx(lost)


def test_transfer_says_what_was_not_measured(study_one: dict) -> None:
    rows = [
        row for row in study_one["features"] if row["features"] == "trained" and row["regulariser"] is None
    ]
    apart = [row for row in rows if (row["data"] == "cifar10") == (row["block"] == 6)]
    found = transfer(from_arrow(synthetic.arrow({"features": apart})))
    assert found is not None
    assert found.correlation[0][1] is None
    assert found.regret[0][1] is None
    assert found.regret[0][0] == 0


def test_regret_against_a_loop(study_one: dict) -> None:
    rows = frame_of(study_one, data="cifar10", regulariser="none")
    rows = rows[rows["features"].isin(["trained", "screen"])].sample(frac=1, random_state=0)
    order = sorted(rows.to_dict("records"), key=lambda row: row["began_at"])
    best_known = max(row["validation_accuracy"] for row in order if row["features"] == "trained")
    passes, fits, screens, best, seen, expected = 0, 0, 0, 0.0, set(), {}
    for row in order:
        pass_of = (row["features"], row["timestep"])
        passes += 0 if pass_of in seen else row["image_passes"]
        seen.add(pass_of)
        if row["features"] == "screen":
            screens += 1
            continue
        fits += 1
        best = max(best, row["validation_accuracy"])
        expected[fits] = (passes, fits + screens, fits, 100 * (best_known - best))
    for place, cost in enumerate(("image passes", "head fits", "head fits without screens")):
        found = regret(rows, cost, "x")
        first = {**order[0], "features": "frequency", "timestep": 999, "validation_accuracy": None}
        first |= {"began_at": order[0]["began_at"] - 1, "image_passes": 64}
        longer = regret(pd.concat([pd.DataFrame([first]), rows]), cost, "x")
        more = 64 if cost == "image passes" else 0
        assert longer.cost == [one + more for one in found.cost]
        steps = {(e[place], round(e[3], 3)) for e in expected.values()}
        assert set(zip(found.cost, found.regret, strict=True)) <= steps
        assert found.cost[-1] == expected[fits][place]
        assert found.regret == sorted(found.regret, reverse=True)
        assert found.regret[-1] == 0
        assert {value for _, value in steps} == set(found.regret)


def test_parallel_coordinates_hold_every_setting(tables: Tables) -> None:
    rows = chosen(tables, features="trained")
    found = settings(rows, columns(tables))
    assert [axis.name for axis in found.axes] == ["block", "timestep", "pool", "head"]
    values = zip(*([axis.levels[place] for place in axis.places] for axis in found.axes), strict=True)
    got = {tuple(key): value for key, value in zip(values, found.accuracy, strict=True)}
    for row in rows.to_dict("records"):
        key = tuple(row[axis] for axis in ("block", "timestep", "pool", "head"))
        assert got[key] == pytest.approx(100 * row["validation_accuracy"], abs=1e-3)
    assert found.accuracy == sorted(found.accuracy)


def test_tracks_against_pandas(tables: Tables) -> None:
    rows = tables.weights[tables.weights["subset"] == "first"].sort_values("k")
    for track in ablation.tracks(rows, "k"):
        column = (
            "ensemble_accuracy" if track.kind == "ensemble" else f"{track.kind}_{track.statistic}_accuracy"
        )
        assert track.places == ["1", "5", "20"]
        assert track.accuracy == pytest.approx((100 * rows[column]).tolist(), abs=1e-3)
        assert track.runs == [1] * 3
        if track.statistic == "best":
            assert track.low == pytest.approx((100 * rows[f"{column}_low"]).tolist(), abs=1e-3)
        else:
            assert track.low == [None] * 3


@pytest.fixture(scope="module")
def swept() -> Tables:
    """Four places of noise, two of the parameters and two K, each on two seeds; on the paper's data and network."""
    setups = [
        {"data": "CIFAR-100", "seed": seed, "parameter_noise": p, "latent_noise": z, "parameters": where}
        for seed in (0, 1)
        for p in (0, 0.001)
        for z in (0, 0.1)
        for where in ("bn-14-16", "layer4.1.bn1 layer4.1.bn2")
    ]
    rows = synthetic.weight_rows(ks=(10, 200), subsets=("first",), generated=6, n=100, setups=setups)
    for row in rows["weights"]:  # as a sweep with `vary` says it
        row["varied"] = json.dumps({"autoencoder.latent_noise": row["latent_noise"], "seed_of_tests": 1})
    return from_arrow(synthetic.arrow(rows))


def test_each_axis_is_drawn_for_each_choice_of_the_others(swept: Tables) -> None:
    views = ablation.views(swept)
    assert not isinstance(views, Absent)
    counts = dict.fromkeys(("K", "location", "noise in the autoencoder"), 0)
    for view in views:
        counts[str(view.choice["axis"])] += 1
    assert counts == {"K": 2 * 4, "location": 4 * 2, "noise in the autoencoder": 2 * 2}
    for view in views:
        free = {"K": "k", "location": "parameters"}.get(str(view.choice["axis"]), "noise")
        assert set(view.choice) == {"axis", "parameters", "noise", "k"}
        assert [name for name, value in view.choice.items() if value is None] == [free]
    row = next(view for view in views if view.choice["axis"] != "K" and view.choice["noise"] is None)
    rows = swept.weights
    rows = rows[(rows["k"] == int(str(row.choice["k"]))) & (rows["parameters"] == row.choice["parameters"])]
    trace = next(trace for trace in row.figure.data if trace["name"] == "generated, mean")
    assert trace["x"] == ["none", "parameters", "latents", "both"]
    for place, value in zip(trace["x"], trace["y"], strict=True):
        same = rows[rows["noise"] == place]
        assert len(same) == 2
        assert value == pytest.approx(100 * same["generated_mean_accuracy"].mean(), abs=1e-3)


def test_published_ablations_take_the_places_of_measured_ones(swept: Tables) -> None:
    rows = swept.weights[swept.weights["noise"] == "both"]
    location = {(t.kind, t.statistic): t for t in ablation.published_tracks("parameters", rows)}
    best = location["2024-12", "best"]
    assert dict(zip(best.places, best.accuracy, strict=True)) == {
        "layer3": 77.5,
        "bn-14-16": 77.3,
        "layer4.1.bn1 layer4.1.bn2": 77.9,
        "conv1": 77.8,
        "fc": 77.8,
    }
    by_k = {(t.kind, t.statistic): t for t in ablation.published_tracks("k", rows)}
    median = by_k["2024-02", "median"]
    assert dict(zip(median.places, median.accuracy, strict=True)) == {
        "1": 73.2,
        "10": 73.8,
        "50": 74.3,
        "200": 75.6,
        "500": 75.4,
    }
    noise = {(t.kind, t.statistic): t for t in ablation.published_tracks("noise", rows)}
    assert noise["2024-02", "mean"].accuracy == [65.8, 66.7, 72.1, 72.4]
    assert ablation.published_tracks("subset", rows) == []
    assert ablation.published_tracks("parameters", rows.assign(network="convnet")) == []
    assert ablation.ablation("k", rows).same
    other = ablation.draw(ablation.ablation("k", rows.assign(data="digits"))).data
    grey = [trace for trace in other if (trace.get("meta") or {}).get("published")]
    assert grey
    assert all(trace["visible"] == "legendonly" for trace in grey)


def test_settings_that_go_together_are_one_axis() -> None:
    editions = [
        {"preset": preset, "optimizer": optimizer, "diffusion_steps": 1000, "latent": latent}
        for preset, optimizer, latent in (("2024-02", "sgd", 12), ("2024-12", "adamw", 128))
    ]
    rows = synthetic.weight_rows(ks=(5,), subsets=("first",), generated=6, n=50, setups=editions)
    views = ablation.views(from_arrow(synthetic.arrow(rows)))
    assert not isinstance(views, Absent)
    assert [dict(view.choice) for view in views] == [{"axis": "preset"}]


def test_clouds_hold_every_network_with_both_numbers(tables: Tables) -> None:
    rows = tables.networks[(tables.networks["k"] == 5) & (tables.networks["subset"] == "first")]
    found = clouds(rows, "max_similarity", "test_accuracy", factor=100)
    assert [cloud.kind for cloud in found[:4]] == ["original", "ensemble", "generated", "reconstructed"]
    assert [cloud.setting for cloud in found if cloud.kind == "noise"] == [0.001, 0.05, 0.15]
    assert {cloud.kind for cloud in found} == set(rows["kind"])
    for cloud in found:
        same = rows[rows["kind"] == cloud.kind]
        same = same if cloud.setting is None else same[same["setting"] == cloud.setting]
        assert cloud.x == pytest.approx(same["max_similarity"].tolist(), abs=1e-4)
        assert cloud.y == pytest.approx((100 * same["test_accuracy"]).tolist(), abs=1e-3)
        assert cloud.left_out == 0
    drawn = {trace["name"]: trace["zorder"] for trace in traces(found, "")}
    assert drawn["average of all weights"] > drawn["generated"] > drawn["original"] == drawn["noise 0.05"]


def test_many_networks_are_thinned_and_said_to_be(tables: Tables) -> None:
    rows = tables.networks[(tables.networks["k"] == 20) & (tables.networks["subset"] == "first")]
    found = clouds(rows, "weight_x", "weight_y", most=40)
    kinds = {cloud.kind for cloud in found}
    assert kinds == set(rows["kind"]) - {"vote"}  # which has no place
    assert sum(len(cloud.names) for cloud in found) < 70
    for cloud in found:
        assert len(cloud.names) + cloud.left_out == len(
            rows[(rows["kind"] == cloud.kind) & (rows["setting"].fillna(-1) == (cloud.setting or -1))]
        )
        assert len(cloud.names) >= 1
    (note,) = thinned(found)["annotations"]
    assert note["text"] == f"{sum(len(c.names) for c in found)} of {len(rows) - 1} networks drawn"
    assert (most_a_view(1), most_a_view(100), most_a_view(10_000)) == (3000, 600, 300)


def test_maps_show_one_space_at_a_time(tables: Tables) -> None:
    views = FIGURES.load("maps").views(tables)
    rows = tables.networks[(tables.networks["k"] == 5) & (tables.networks["subset"] == "strided")]
    for space, column in (("latents", "latent"), ("weights", "weight")):
        (view,) = (v for v in views if dict(v.choice) == {"subset": "strided", "k": "5", "space": space})
        drawn = sorted(x for trace in view.figure.data for x in trace["x"])
        assert drawn == pytest.approx(sorted(rows[f"{column}_x"].dropna()), abs=1e-4)


def test_four_cases_against_pandas(swept: Tables) -> None:
    frame = with_largest(swept)
    frame = frame[(frame["noise"] == "both") & (frame["parameters"] == "bn-14-16")]
    small, large = bars(frame)
    assert (small.name, large.name) == ("K = 10", "K = 200")
    rows = frame[frame["k"] == 10]
    columns = ["similarity_original", "similarity_generated", "similarity_across"]
    assert small.value[:3] == pytest.approx(rows[columns].mean().tolist(), abs=1e-4)
    networks = swept.networks[swept.networks["key"].isin(rows["key"])]
    generated = networks[networks["kind"] == "generated"]["max_similarity"]  # as many in both trials
    assert small.value[3] == pytest.approx(generated.mean(), abs=1e-4)
    assert small.low[0] is not None
    assert small.low[0] < small.value[0]
    assert small.low[1] is None  # both runs are the same
    assert [one.value for one in published_bars()] == [
        [0.968, 0.912, 0.921, 0.933],
        [0.784, 0.88, 0.819, 0.848],
    ]


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


def test_the_published_range_is_the_csv_s() -> None:
    found = published_range()
    assert (found.kind, found.k) == ("2024-02", [1, 10, 50, 200, 500])
    assert (found.low, found.high) == ([0.96, 0.91, 0.87, 0.85, 0.85], [0.98, 0.97, 0.97, 0.98, 0.97])


def test_bars_are_hidden_where_no_end_is_known() -> None:
    assert not error_bars([0.5, 0.6], [None, None], [None, None])["visible"]
    bars = error_bars([0.5, 0.6], [None, 0.5], [None, 0.8])
    assert bars["visible"]
    assert bars["array"] == [None, pytest.approx(0.2)]
    assert bars["arrayminus"] == [None, pytest.approx(0.1)]


def test_axes_leave_room_and_stay_possible() -> None:
    assert axis_range([None], 0, 1) is None
    assert axis_range([0.5, 1.0, None], 0, 1) == pytest.approx([0.47, 1.02])
    assert ramp(1) != ramp(2)[:1]
    assert len(set(ramp(7))) == 7
