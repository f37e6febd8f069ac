"""Study 2 from plan to rows, in one process; what a trial measures of arrays, against loops."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from scipy.stats import binomtest, mannwhitneyu, norm
from tiny_weights import WEIGHTS, trials_of

from harness.core.errors import UserError
from harness.core.stages import run
from harness.core.storage import Storage
from harness.core.tables import WHEN_AND_WHERE, Role
from harness.metrics import maps
from harness.models.classifiers.convnet import ConvNet
from harness.sweep import studies
from harness.training import checkpoint
from harness.weights.checkpoints import NETWORK, chosen, held_out, open_checkpoints
from harness.weights.compare import Group, difference, majority, novelty, where
from harness.weights.study import STUDY


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_a_vote_is_won_by_the_most_and_of_equals_by_the_lowest(predicted):
    expected = []
    for votes in predicted.T:
        counts = Counter(votes.tolist())
        expected.append(min(name for name, count in counts.items() if count == max(counts.values())))
    np.testing.assert_array_equal(majority(predicted, 5), expected)


def rms(gap):
    return np.sqrt(np.square(gap).mean())


@pytest.mark.parametrize("k", [3, 6])
def test_where_networks_lie_is_what_loops_over_the_others_find(k):
    draw = np.random.default_rng(k)
    raw = draw.normal(3, 2, (k + 4, 9)).astype(np.float32)
    normal = ((raw - 3) / 2).astype(np.float32)
    normal[-1] = normal[1]
    steps = 10.0 * np.arange(k)
    found = where(raw, normal, steps)
    for index in range(k + 4):
        others = [number for number in range(k) if number != index]
        gaps = [rms(normal[index] - normal[other]) for other in others]
        assert found["distance"][index] == pytest.approx(min(gaps), rel=1e-5)
        assert found["distance_raw"][index] == pytest.approx(
            min(rms(raw[index] - raw[o]) for o in others), rel=1e-5
        )
        assert found["nearest_step"][index] == steps[others[int(np.argmin(gaps))]]
        mean = normal[others].mean(0, dtype=np.float64)
        assert found["distance_to_mean"][index] == pytest.approx(rms(normal[index] - mean))
        gap, basis = normal[index] - mean, (normal[others] - mean).T
        residual = gap - basis @ np.linalg.lstsq(basis, gap, rcond=1e-9)[0]
        assert found["off_span"][index] == pytest.approx((residual @ residual) / (gap @ gap), abs=1e-7)
    assert found["distance"][-1] == 0


def test_where_a_single_original_lies_is_unknown():
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = where(vectors, vectors, np.array([4.0]))
    for column in ("distance", "distance_raw", "nearest_step", "distance_to_mean", "off_span"):
        assert np.isnan(found[column][0])
    assert (found["distance"][1], found["distance_to_mean"][1], found["nearest_step"][1]) == (3, 3, 4)


def test_the_interval_of_the_difference_is_that_of_a_paired_bootstrap():
    draw = np.random.default_rng(0)
    one = draw.random(2000) < 0.8
    other = np.where(draw.random(2000) < 0.1, draw.random(2000) < 0.5, one)  # mostly the same answers
    found = difference(one, other)
    gained = one.astype(float) - other
    means = gained[draw.integers(2000, size=(4000, 2000))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["generated_minus_original"] == gained.mean()
    assert found["generated_minus_original_low"] == pytest.approx(low, abs=0.0006)
    assert found["generated_minus_original_high"] == pytest.approx(high, abs=0.0006)
    independent = 1.96 * np.sqrt(one.var() / 2000 + other.var() / 2000)
    assert high - low < independent  # half of the width it would have unpaired


def test_the_same_answers_differ_by_nothing_as_far_as_ten_samples_tell():
    """4 of 10 right: from Wilson's 0.1682 to 0.6873, and phi is (4 * 6 - 10 / 2) / (4 * 6)."""
    answers = np.arange(10) % 3 == 0
    found = difference(answers, answers)
    below, above = 0.4 - 0.1682, 0.6873 - 0.4
    half = np.sqrt(below**2 - 2 * 19 / 24 * below * above + above**2)
    assert list(found.values()) == pytest.approx([0, -half, half, 1], abs=2e-4)


def group_of(kind, vectors, k_originals, accuracies):
    """Networks of 100 test images with such accuracies, placed among the originals, which come first."""
    right = np.arange(100) < 100 * np.asarray(accuracies)[:, None]
    every = np.concatenate([k_originals, vectors]).astype(np.float32)
    columns = where(every, every, np.arange(float(len(k_originals))))
    its = {name: column[-len(vectors) :] for name, column in columns.items()}
    if kind == "original":
        its = {name: column[: len(k_originals)] for name, column in columns.items()}
    return Group(kind, None, vectors.astype(np.float32), right, right, its)


def panel(generated, originals, fresh, accuracies=None):
    threshold = np.quantile(
        group_of("held_out", fresh, originals, [0.5] * len(fresh)).columns["distance"], 0.05
    )
    return novelty(
        group_of("generated", generated, originals, accuracies or [0.5] * len(generated)),
        group_of("original", originals, originals, np.linspace(0.3, 0.7, len(originals))),
        group_of("held_out", fresh, originals, [0.5] * len(fresh)),
        threshold,
    )


def test_the_panel_tells_copies_averages_and_fresh_networks_apart():
    draw = np.random.default_rng(0)
    originals, fresh, others = (draw.normal(size=(count, 40)) for count in (81, 30, 60))
    copies = originals[:60] + 0.001 * others
    averages = np.stack([originals[draw.choice(81, 16, replace=False)].mean(0) for _ in range(60)])
    of_copies, of_averages, of_others = (panel(one, originals, fresh) for one in (copies, averages, others))
    assert of_copies["copying_z"] < -7 > of_copies["copying_z_raw"]
    assert of_copies["distance_ratio"] < 0.01
    assert of_copies["new_share"] == 0
    assert abs(of_copies["mean_z"]) < 3
    assert of_copies["variance_ratio"] == pytest.approx(1, abs=0.1)
    assert of_averages["mean_z"] < -7
    assert of_averages["variance_ratio"] < 0.1
    assert abs(of_others["copying_z"]) < 3
    assert abs(of_others["mean_z"]) < 3
    assert of_others["new_share"] > 0.8
    assert of_others["distance_ratio"] == pytest.approx(1, abs=0.1)


def test_good_is_as_accurate_as_the_median_original_and_new_is_far_from_all():
    originals = np.zeros((5, 4))
    originals[:, 0] = np.arange(5)  # accuracies .3, .4, .5, .6, .7
    fresh = originals[:4] + np.array([0.5, 0, 0, 0])  # all .25 away, RMS over four numbers
    generated = originals[[0, 0, 0, 0]] + np.array(
        [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0.5, 0, 0], [0, 0.4, 0, 0]]
    )
    row = panel(generated, originals, fresh, [0.49, 0.5, 0.9, 0.9])
    assert row["new_share"] == 0.75
    assert row["new_and_good_share"] == 0.5
    assert row["distance_ratio"] == pytest.approx(1.5)  # the median of .5, .5, .25 and .2, over .25


OF_TWELVE = {**WEIGHTS["checkpoints"], "size": 12}


def rows_of(trial, context):
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["weights"][0]["error"]
    for name, rows in outcome.tables.items():
        assert len(studies.tables()[name].filled(rows)) == len(rows)
    return outcome.tables


@pytest.fixture(scope="module", autouse=True)
def quick_maps():
    """Maps with the fewest iterations: where exactly a network lies on them is tests/metrics/test_maps.py's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps, "ITERATIONS", 250)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment with two K that has been run: data set, trials, context, tables by K."""
    from harness.core.artifacts import ArtifactStore
    from harness.core.stages import Context

    store = ArtifactStore(Storage(str(tmp_path_factory.mktemp("results"))))
    context = Context(store, {"run": "test-run"}, ray=False, accelerators=False)
    dataset, trials = trials_of()
    return dataset, trials, context, {trial.axes["k"]: rows_of(trial, context) for trial in trials}


def generated(trial):
    return trial.needs["contenders"].needs["generated"]


def originals_of(trial, context):
    """Returns the checkpoints and where in it the originals of a trial are."""
    checkpoints = open_checkpoints(trial.needs["checkpoints"], context)
    return checkpoints, chosen(checkpoints, trial.needs["contenders"].config)


def contenders(trial, context):
    """Returns the vectors of every kind of network but a vote, as parameters."""
    checkpoints, places = originals_of(trial, context)
    names = [key for key in KINDS if key[0] not in ("original", "held_out", "vote")]
    vectors = load_file(context.file(trial.needs["contenders"], "vectors.safetensors"))["vectors"]
    edges = np.cumsum([KINDS[name] or trial.axes["k"] for name in names])
    assert edges[-1] == len(vectors)
    return {
        ("original", None): checkpoints.vectors_NP[places],
        ("held_out", None): checkpoints.vectors_NP[held_out(checkpoints, places)],
        **dict(zip(names, np.split(vectors, edges[:-1]), strict=True)),
    }


def group(tables, kind, setting=None):
    """Returns the network rows of a kind, and what they get right [N, images]."""
    networks, correct = (
        [row for row in tables[name] if (row["kind"], row["setting"]) == (kind, setting)]
        for name in ("networks", "correctness")
    )
    assert (
        [row["index"] for row in networks] == [row["index"] for row in correct] == list(range(len(networks)))
    )
    return networks, np.stack([row["correct"] for row in correct])


def iou(a, b):
    """The similarity of p-diff, section 4.1, over sets of wrong predictions."""
    a, b = set(np.flatnonzero(~a)), set(np.flatnonzero(~b))
    return len(a & b) / len(a | b) if a | b else 1.0


KINDS = {
    ("original", None): None,
    ("held_out", None): 4,
    ("vote", None): 1,
    ("ensemble", None): 1,
    ("generated", None): 5,
    ("reconstructed", None): None,
    ("noise", 0.01): 3,
    ("noise", 5.0): 3,
    ("gaussian", None): 4,
    ("average", 3.0): 2,
    ("decoded_gaussian", None): 2,
    ("fine_tuned", None): 2,
    ("other_seed", None): 2,
}


def test_every_group_of_networks_has_its_rows(done):
    for k, tables in done[3].items():
        assert {(row["kind"], row["setting"]) for row in tables["networks"]} == set(KINDS)
        for (kind, setting), count in KINDS.items():
            assert len(group(tables, kind, setting)[0]) == (count or k)
        assert all(
            (row["k"], row["subset"], row["generator"]) == (k, "strided", 0) for row in tables["networks"]
        )
        assert len(tables["weights"]) == 1
        assert len(tables["correctness"]) == len(tables["networks"])


def test_accuracies_are_those_of_the_predictions_kept(done):
    for tables in done[3].values():
        for kind, setting in KINDS:
            networks, correct = group(tables, kind, setting)
            assert correct.shape[1] == 60
            assert [row["test_accuracy"] for row in networks] == pytest.approx(list(correct.mean(1)))
            assert {row["test_accuracy_n"] for row in networks} == {60}
            assert {row["validation_accuracy_n"] for row in networks} == {50}


def test_the_best_is_chosen_on_validation(done):
    for tables in done[3].values():
        for kind, setting in KINDS:
            networks, _ = group(tables, kind, setting)
            validation = [row["validation_accuracy"] for row in networks]
            assert [row["selected"] for row in networks].count(True) == 1
            (best,) = [row for row in networks if row["selected"]]
            assert best["index"] == validation.index(max(validation))
            if f"{kind}_best_accuracy" in tables["weights"][0]:
                assert tables["weights"][0][f"{kind}_best_accuracy"] == best["test_accuracy"]
            elif kind == "ensemble":
                assert tables["weights"][0]["ensemble_accuracy"] == best["test_accuracy"]


def test_the_originals_are_not_all_alike(done):
    """Otherwise the tests here could not tell best from first, or similar from same."""
    accuracies = [row["validation_accuracy"] for row in group(done[3][12], "original")[0]]
    assert len(set(accuracies)) > 2
    assert accuracies.index(max(accuracies)) != 0


def test_max_similarity_is_over_the_originals_without_oneself(done):
    for tables in done[3].values():
        originals = group(tables, "original")[1]
        for kind, setting in KINDS:
            networks, correct = group(tables, kind, setting)
            for index, row in enumerate(networks):
                others = [
                    iou(correct[index], other)
                    for number, other in enumerate(originals)
                    if kind != "original" or number != index
                ]
                assert row["max_similarity"] == pytest.approx(max(others), abs=1e-6)


def test_similarities_of_groups_are_means_over_pairs(done):
    for tables in done[3].values():
        row = tables["weights"][0]
        originals, generated = group(tables, "original")[1], group(tables, "generated")[1]
        for name, group_ in (("original", originals), ("generated", generated)):
            pairs = [iou(a, b) for i, a in enumerate(group_) for b in group_[i + 1 :]]
            assert row[f"similarity_{name}"] == pytest.approx(np.mean(pairs), abs=1e-6)
        across = [iou(a, b) for a in generated for b in originals]
        assert row["similarity_across"] == pytest.approx(np.mean(across), abs=1e-6)


def test_summaries_are_best_mean_and_median(done):
    for k, tables in done[3].items():
        row = tables["weights"][0]
        for kind, count in (("original", k), ("generated", 5), ("reconstructed", k)):
            test = [one["test_accuracy"] for one in group(tables, kind)[0]]
            assert row[f"{kind}_mean_accuracy"] == pytest.approx(np.mean(test))
            assert row[f"{kind}_median_accuracy"] == pytest.approx(np.median(test))
            assert row[f"{kind}_networks"] == count


def test_the_difference_is_that_of_the_best_with_its_paired_test(done):
    for tables in done[3].values():
        best = {}
        for kind in ("original", "generated"):
            networks, correct = group(tables, kind)
            best[kind] = correct[next(row["index"] for row in networks if row["selected"])]
        row = tables["weights"][0]
        difference = best["generated"].mean() - best["original"].mean()
        assert row["generated_minus_original"] == pytest.approx(difference)
        gained = int((best["generated"] & ~best["original"]).sum())
        lost = int((best["original"] & ~best["generated"]).sum())
        assert row["p_value"] == pytest.approx(
            binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        )


def test_every_column_of_the_tables_is_there(done):
    """Missing is null, and a column that nobody fills would be missing everywhere."""
    for tables in done[3].values():
        for name, rows in tables.items():
            found, declared = {column for row in rows for column in row}, studies.tables()[name]
            assert {column.name for column in declared.columns} <= found
            assert not found - set(declared.schema.names)
        nothing = {column for column, value in tables["weights"][0].items() if value is None}
        assert nothing == {"error", "preset", "varied"}


def test_a_vote_is_that_of_the_originals(done):
    """What most of them get right it gets right; it has no parameters of its own."""
    for k, tables in done[3].items():
        (row,), correct = group(tables, "vote")
        share = group(tables, "original")[1].mean(0)
        assert correct[0][share > 0.5].all()
        assert not correct[0][share == 0].any()
        assert {row.get(name) for name in ("distance", "off_span", "new", "step", "latent_x")} == {None}
        assert 0 < len(share[share > 0.5]) < 60, k


def test_distances_are_to_the_nearest_original_without_oneself(done):
    _, trials, context, tables = done
    for trial in trials:
        checkpoints, places = originals_of(trial, context)
        originals = checkpoints.vectors_NP[places].astype(np.float64)
        edges = [0, *np.cumsum(checkpoints.layout.sizes)]
        pieces = [originals[:, a:b] for a, b in pairwise(edges)]
        deviation = np.repeat([piece.std() for piece in pieces], checkpoints.layout.sizes)
        steps = checkpoints.steps_N[places]
        for (kind, setting), vectors in contenders(trial, context).items():
            for index, row in enumerate(group(tables[trial.axes["k"]], kind, setting)[0]):
                kept = [n for n in range(len(places)) if kind != "original" or n != index]
                raw = np.sqrt(np.square(vectors[index] - originals[kept]).mean(1))
                gaps = np.sqrt(np.square((vectors[index] - originals[kept]) / deviation).mean(1))
                assert row["distance_raw"] == pytest.approx(raw.min(), rel=1e-3, abs=1e-6)
                assert row["distance"] == pytest.approx(gaps.min(), rel=1e-3, abs=1e-6)
                assert row["nearest_step"] == steps[kept][gaps.argmin()]
                to_mean = rms((vectors[index] - originals[kept].mean(0)) / deviation)
                assert row["distance_to_mean"] == pytest.approx(to_mean, rel=1e-3, abs=1e-5)


def test_checkpoints_know_their_step_and_what_is_made_has_none(done):
    _, trials, context, tables = done
    for trial in trials:
        checkpoints, places = originals_of(trial, context)
        rows = tables[trial.axes["k"]]
        for kind, its in (("original", places), ("held_out", held_out(checkpoints, places))):
            assert [row["step"] for row in group(rows, kind)[0]] == list(checkpoints.steps_N[its])
        assert {row["step"] for row in group(rows, "generated")[0]} == {None}


def test_the_panel_of_a_trial_is_that_of_its_rows(done):
    for tables in done[3].values():
        row = tables["weights"][0]
        generated, fresh = (group(tables, kind)[0] for kind in ("generated", "held_out"))
        for score, column in (
            ("copying_z", "distance"),
            ("copying_z_raw", "distance_raw"),
            ("mean_z", "distance_to_mean"),
        ):
            sides = [[one[column] for one in some] for some in (generated, fresh)]
            test = mannwhitneyu(*sides, alternative="less", method="asymptotic", use_continuity=False)
            assert norm.cdf(row[score]) == pytest.approx(test.pvalue)
        threshold = np.quantile([one["distance"] for one in fresh], 0.05)
        for one in tables["networks"]:
            if one["kind"] != "vote":
                assert one["new"] == (one["distance"] >= threshold)
        assert row["new_share"] == np.mean([one["new"] for one in generated])
        median = np.median([one["test_accuracy"] for one in group(tables, "original")[0]])
        both = [one["new"] and one["test_accuracy"] >= median for one in generated]
        assert row["new_and_good_share"] == np.mean(both)
        assert (row["trajectories"], row["permuted"], row["parameter_count"]) == (1, False, 16)


def test_maps_place_all_networks_but_reconstructions(done):
    for tables in done[3].values():
        for column in ("latent_x", "latent_y", "weight_x", "weight_y"):
            placed = {row["kind"] for row in tables["networks"] if row.get(column) is not None}
            missing = {row["kind"] for row in tables["networks"] if row.get(column) is None}
            assert missing == {"reconstructed", "vote"}
            assert placed == {kind for kind, _ in KINDS} - missing
        points = {(row["weight_x"], row["weight_y"]) for row in group(tables, "original")[0]}
        assert len(points) == len(group(tables, "original")[0])


def test_where_nothing_is_held_out_the_originals_are_compared_with_each_other(done):
    _, _, context, _ = done
    few = {"checkpoints": {**WEIGHTS["checkpoints"], "held_out": 0, "size": 12}, "controls": []}
    tables = rows_of(trials_of(k=[6], **few)[1][0], context)
    assert {row["kind"] for row in tables["networks"]} == {
        "original", "vote", "ensemble", "generated", "reconstructed"
    }  # fmt: skip
    distances = [[row["distance"] for row in group(tables, kind)[0]] for kind in ("generated", "original")]
    test = mannwhitneyu(*distances, alternative="less", method="asymptotic", use_continuity=False)
    assert norm.cdf(tables["weights"][0]["copying_z"]) == pytest.approx(test.pvalue)


def test_the_ensemble_is_the_network_of_average_weights(done):
    dataset, trials, context, tables = done
    for trial in trials:
        checkpoints, places = originals_of(trial, context)
        network = trained_network(trial, context)
        mean = torch.from_numpy(checkpoints.vectors_NP[places].mean(0))
        network.norm2.weight.data, network.norm2.bias.data = mean[:8], mean[8:]
        test = dataset.splits["test"]
        with torch.no_grad():
            predicted = network(torch.from_numpy(dataset.images[test]) / 127.5 - 1).argmax(1).numpy()
        np.testing.assert_array_equal(
            group(tables[trial.axes["k"]], "ensemble")[1][0], predicted == dataset.labels[test]
        )


def trained_network(trial, context):
    from safetensors.torch import load_file

    network = ConvNet(1, [8, 8], 10, 2)
    network.load_state_dict(load_file(context.file(trial.needs["network"], NETWORK)))
    return network.eval()


def test_large_noise_hurts_and_small_noise_does_not(done):
    tables = done[3][12]
    original = np.median([row["test_accuracy"] for row in group(tables, "original")[0]])
    small, large = (
        np.median([row["test_accuracy"] for row in group(tables, "noise", s)[0]]) for s in (0.01, 5.0)
    )
    assert small > original - 0.1
    assert large < original


def test_one_set_of_checkpoints_serves_every_k(done):
    _, trials, context, _ = done
    assert len({trial.needs["checkpoints"].key for trial in trials}) == 1
    assert len({stage.key for trial in trials for stage in trial.reads["originals"]}) == 1
    assert len({generated(trial).key for trial in trials}) == 2
    checkpoints = open_checkpoints(trials[0].needs["checkpoints"], context)
    assert checkpoints.vectors_NP.shape == (12 + 4, checkpoints.layout.length)
    assert checkpoints.layout.names == ("norm2.weight", "norm2.bias")


def test_checkpoints_are_the_varied_parameters_along_training_and_nothing_else_moves(done, monkeypatch):
    _, trials, context, _ = done
    checkpoints = trials[0].needs["checkpoints"]
    trajectory = checkpoints.needs["trajectory 0"]
    opened = open_checkpoints(checkpoints, context)
    vectors, layout = opened.vectors_NP, opened.layout
    start, seen = trained_network(trials[0], context).state_dict(), []
    save = checkpoint.save

    def watch(progress, folder):
        seen.append({name: value.clone() for name, value in progress.model.state_dict().items()})
        seen[-1]["step"] = progress.step
        save(progress, folder)

    monkeypatch.setattr(checkpoint, "save", watch)
    kept = context.file(checkpoints, "vectors.safetensors").read_bytes()
    for stage in (trajectory, checkpoints):
        context.store.discard(stage.kind, stage.key)
    assert context.file(checkpoints, "vectors.safetensors").read_bytes() == kept
    assert seen[-1]["step"] == 32
    for state in seen:
        for name, value in state.items():
            if name not in layout.names and name != "step":
                assert torch.equal(value, start[name]), f"{name} is frozen"
        if state["step"] % 2 == 0:
            row = vectors[state["step"] // 2 - 1]
            np.testing.assert_array_equal(row[:8], state["norm2.weight"].numpy())
            np.testing.assert_array_equal(row[8:], state["norm2.bias"].numpy())
    assert len({row.tobytes() for row in vectors}) == 16


def test_only_what_is_new_is_made_for_another_k(done, monkeypatch):
    _, _, context, _ = done
    (trial,) = trials_of(k=[3], checkpoints=OF_TWELVE)[1]
    present = {name: context.has(stage) for name, stage in trial.needs.items()}
    assert present == {"dataset": True, "network": True, "checkpoints": True, "contenders": False}
    read = {name: [context.has(stage) for stage in stages] for name, stages in trial.reads.items()}
    assert read == {"originals": [True], "contenders": [False]}


def test_a_single_original_has_no_other_to_be_compared_with(done):
    _, _, context, _ = done
    (trial,) = trials_of(k=[1], checkpoints=OF_TWELVE)[1]
    tables = rows_of(trial, context)
    (row,) = group(tables, "original")[0]
    for column in (
        "max_similarity",
        "distance",
        "distance_raw",
        "distance_to_mean",
        "off_span",
        "nearest_step",
    ):
        assert row[column] is None
    assert tables["weights"][0]["similarity_original"] is None
    assert tables["weights"][0]["variance_ratio"] is None
    assert tables["weights"][0]["copying_z"] is None  # nothing is held out between one original and itself
    assert tables["weights"][0]["ensemble_accuracy"] == row["test_accuracy"]


@pytest.mark.slow
def test_the_same_experiment_gives_the_same_rows(done, tmp_path):
    _, _, context, tables = done
    elsewhere = replace(context, store=type(context.store)(Storage(str(tmp_path))))
    again = rows_of(trials_of()[1][0], elsewhere)
    for name, rows in tables[6].items():
        for one, other in zip(rows, again[name], strict=True):
            for column in set(one) - set(WHEN_AND_WHERE):
                np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


def test_generated_networks_do_not_depend_on_how_many_others_are_evaluated(done):
    """More controls, the same generated networks with the same answers."""
    _, _, context, tables = done
    more = [*WEIGHTS["controls"], {"name": "noise", "networks": 40, "scales": [1.0]}][1:]
    trial = trials_of(controls=more)[1][0]
    found = rows_of(trial, context)
    np.testing.assert_array_equal(group(found, "generated")[1], group(tables[6], "generated")[1])
    np.testing.assert_array_equal(group(found, "gaussian")[1], group(tables[6], "gaussian")[1])


def test_rows_do_not_depend_on_how_evaluation_is_cut(done, tmp_path):
    _, _, context, tables = done
    trial = trials_of(shard=16)[1][0]
    assert [len(stages) for stages in trial.reads.values()] == [1, 2]
    for stage in (stage for stages in trial.reads.values() for stage in stages):
        context.store.discard(stage.kind, stage.key)
    found = rows_of(trial, context)
    for name, rows in tables[6].items():
        assert len(rows) == len(found[name])
        for one, other in zip(rows, found[name], strict=True):
            for column in set(one) - set(WHEN_AND_WHERE):
                np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


@pytest.mark.parametrize("subset", ["first", "strided", "random"])
def test_the_originals_of_a_trial_are_those_of_its_subset(done, subset):
    """None of them is held out, and those of a smaller k are among them."""
    _, _, context, _ = done
    smaller, larger = trials_of(
        k=[3, 6], checkpoints={**WEIGHTS["checkpoints"], "size": 12}, subsets=[subset]
    )[1]
    checkpoints, places = originals_of(larger, context)
    assert not checkpoints.held_out_N[places].any()
    assert set(originals_of(smaller, context)[1]) < set(places)
    free = np.flatnonzero(~checkpoints.held_out_N)
    assert (list(places) == list(free[:6])) == (subset == "first")
    assert len(np.unique(places)) == 6


def test_what_only_changes_the_speed_changes_no_key():
    slow = trials_of()[1]
    faster = {name: {**WEIGHTS[name], "workers": 4} for name in ("train", "checkpoints")}
    assert [trial.key for trial in trials_of(**faster)[1]] == [trial.key for trial in slow]


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"name": "convnet", "channels": [8, 4], "groups": 2}},
        {"train": {**WEIGHTS["train"], "steps": 61}},
        {"parameters": ["norm1"]},
        {"checkpoints": {"every": 3, "workers": 0}},
        {"checkpoints": {**WEIGHTS["checkpoints"], "size": 20}},
        {"checkpoints": {**WEIGHTS["checkpoints"], "held_out": 3}},
        {"checkpoints": {**WEIGHTS["checkpoints"], "trajectories": 2}},
        {"autoencoder": {**WEIGHTS["autoencoder"], "latent_noise": 0.2}},
        {"diffusion": {**WEIGHTS["diffusion"], "timesteps": 21}},
        {"generate": 6},
        {"sampling_steps": 9},
        {"controls": []},
        {"seed": 1},
        {"data": {"labels_per_class": 5}},
    ],
)
def test_what_changes_a_number_changes_every_key(change):
    assert not {trial.key for trial in trials_of()[1]} & {trial.key for trial in trials_of(**change)[1]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": [0]}, ["k", "0"]),
        ({"k": [13], "checkpoints": {"size": 12}}, ["weights.k", "13 is not between 1 and 12"]),
        ({"k": [3, 3]}, ["weights.k", "3 is given twice"]),
        ({"subsets": ["first", "first"]}, ["weights.subsets", "'first' is given twice"]),
        ({"subsets": ["last"]}, ["subsets"]),
        (
            {"network": {"name": "convnet", "channels": [7], "groups": 2}},
            ["channels = 7", "not divisible by groups = 2"],
        ),
        ({"network": {"name": "convnet", "channels": [0]}}, ["channels"]),
        ({"sampling_steps": 21}, ["sampling_steps = 21 exceeds diffusion.timesteps = 20"]),
        ({"parameters": ["bn2"]}, ["'bn2' names no parameter"]),
        ({"autoencoder": {"kernel": 4}}, ["kernel = 4", "must be odd"]),
        ({"diffusion": {"kernel": 4}}, ["kernel = 4", "must be odd"]),
        ({"data": {"labels_per_class": 1000}}, ["labels_per_class = 1000"]),
    ],
)
def test_settings_that_cannot_be_are_refused(change, words):
    with pytest.raises(UserError) as caught:
        trials_of(**change)
    for word in words:
        assert word in str(caught.value)


def test_the_study_searches_over_its_axes():
    assert STUDY.name == "weights"
    for trial in trials_of()[1]:
        axes = {column.name for column in STUDY.tables[0].columns if column.role is Role.AXIS}
        assert axes == {"k", "subset"}
        assert axes <= set(trial.axes)
        assert trial.objective in studies.tables()["weights"].names(Role.METRIC)
