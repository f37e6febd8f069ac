"""Study 2 from plan to rows, in one process."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import binomtest
from tiny_weights import WEIGHTS, trials_of

from harness.core.errors import UserError
from harness.core.rows import TABLES, WHEN_AND_WHERE, to_table
from harness.core.seeds import generator
from harness.core.stages import run
from harness.core.storage import Storage
from harness.models.convnet import ConvNet
from harness.training import checkpoint
from harness.weights.originals import NETWORK, open_pool
from harness.weights.study import STUDY


def rows_of(trial, workshop):
    outcome = run(trial, workshop, "cpu")
    assert not outcome.failed, outcome.tables["weights"][0]["error"]
    for name, rows in outcome.tables.items():
        assert len(to_table(name, rows)) == len(rows)
    return outcome.tables


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """An experiment with two K that has been run: data set, trials, workshop, tables by K."""
    from harness.core.artifacts import ArtifactStore
    from harness.core.stages import Workshop

    store = ArtifactStore(Storage(str(tmp_path_factory.mktemp("results"))))
    workshop = Workshop(store, {"run": "test-run"}, ray=False, accelerators=False)
    dataset, trials = trials_of()
    return dataset, trials, workshop, {trial.axes["k"]: rows_of(trial, workshop) for trial in trials}


def generated(trial):
    return trial.needs["contenders"].needs["generated"]


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
    ("ensemble", None): 1,
    ("generated", None): 5,
    ("reconstructed", None): None,
    ("noise", 0.01): 3,
    ("noise", 5.0): 3,
    ("gaussian", None): 4,
    ("average", 3.0): 2,
}


def test_every_group_of_networks_has_its_rows(done):
    for k, tables in done[3].items():
        assert {(row["kind"], row["setting"]) for row in tables["networks"]} == set(KINDS)
        for (kind, setting), count in KINDS.items():
            assert len(group(tables, kind, setting)[0]) == (count or k)
        assert all((row["k"], row["subset"]) == (k, "strided") for row in tables["networks"])
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


def test_distances_are_to_the_nearest_original_without_oneself(done):
    _, trials, workshop, tables = done
    for trial in trials:
        pool, layout = open_pool(trial.needs["pool"], workshop)
        made = load_file(workshop.file(generated(trial), "vectors.safetensors"))
        originals = pool[made["places"]].astype(np.float64)
        edges = np.cumsum([0, *layout.sizes])
        for a, b in pairwise(edges):
            mean, deviation = originals[:, a:b].mean(), originals[:, a:b].std()
            for vectors in (originals, made["generated"]):
                vectors[:, a:b] = (vectors[:, a:b] - mean) / deviation
        k = trial.axes["k"]
        for kind, vectors in (("original", originals), ("generated", made["generated"])):
            for index, row in enumerate(group(tables[k], kind)[0]):
                gaps = np.sqrt(np.square(vectors[index] - originals).mean(1))
                gaps = np.delete(gaps, index) if kind == "original" else gaps
                assert row["distance"] == pytest.approx(gaps.min(), rel=1e-3)


def test_the_ensemble_is_the_network_of_average_weights(done):
    dataset, trials, workshop, tables = done
    for trial in trials:
        pool, _ = open_pool(trial.needs["pool"], workshop)
        places = load_file(workshop.file(generated(trial), "vectors.safetensors"))["places"]
        network = trained_network(trial, workshop)
        mean = torch.from_numpy(pool[places].mean(0))
        network.norm2.weight.data, network.norm2.bias.data = mean[:8], mean[8:]
        test = dataset.splits["test"]
        with torch.no_grad():
            predicted = network(torch.from_numpy(dataset.images[test]) / 127.5 - 1).argmax(1).numpy()
        np.testing.assert_array_equal(
            group(tables[trial.axes["k"]], "ensemble")[1][0], predicted == dataset.labels[test]
        )


def trained_network(trial, workshop):
    from safetensors.torch import load_file

    network = ConvNet(1, [8, 8], 10, 2)
    network.load_state_dict(load_file(workshop.file(trial.needs["network"], NETWORK)))
    return network.eval()


def test_large_noise_hurts_and_small_noise_does_not(done):
    tables = done[3][12]
    original = np.median([row["test_accuracy"] for row in group(tables, "original")[0]])
    small, large = (
        np.median([row["test_accuracy"] for row in group(tables, "noise", s)[0]]) for s in (0.01, 5.0)
    )
    assert small > original - 0.1
    assert large < original


def test_one_pool_serves_every_k(done):
    _, trials, workshop, _ = done
    assert len({trial.needs["pool"].key for trial in trials}) == 1
    assert len({stage.key for trial in trials for stage in trial.reads["originals"]}) == 1
    assert len({generated(trial).key for trial in trials}) == 2
    vectors, layout = open_pool(trials[0].needs["pool"], workshop)
    assert vectors.shape == (12, layout.length)
    assert layout.names == ("norm2.weight", "norm2.bias")


def test_the_pool_is_the_varied_parameters_along_training_and_nothing_else_moves(done, monkeypatch, tmp_path):
    _, trials, workshop, _ = done
    pool = trials[0].needs["pool"]
    vectors, layout = open_pool(pool, workshop)
    start, seen = trained_network(trials[0], workshop).state_dict(), []
    save = checkpoint.save

    def watch(progress, folder):
        seen.append({name: value.clone() for name, value in progress.model.state_dict().items()})
        seen[-1]["step"] = progress.step
        save(progress, folder)

    monkeypatch.setattr(checkpoint, "save", watch)
    fresh = replace(workshop, store=type(workshop.store)(workshop.store.storage))
    kept = workshop.file(pool, "vectors.safetensors").read_bytes()
    fresh.store.discard("pool", pool.key)
    assert fresh.file(pool, "vectors.safetensors").read_bytes() == kept
    assert seen[-1]["step"] == 24
    for state in seen:
        for name, value in state.items():
            if name not in layout.names and name != "step":
                assert torch.equal(value, start[name]), f"{name} is frozen"
        if state["step"] % 2 == 0:
            row = vectors[state["step"] // 2 - 1]
            np.testing.assert_array_equal(row[:8], state["norm2.weight"].numpy())
            np.testing.assert_array_equal(row[8:], state["norm2.bias"].numpy())
    assert len({row.tobytes() for row in vectors}) == 12


def test_only_what_is_new_is_made_for_another_k(done, monkeypatch):
    _, _, workshop, _ = done
    (trial,) = trials_of(k=[3], pool_size=12)[1]
    present = {name: workshop.has(stage) for name, stage in trial.needs.items()}
    assert present == {"dataset": True, "network": True, "pool": True, "contenders": False}
    read = {name: [workshop.has(stage) for stage in stages] for name, stages in trial.reads.items()}
    assert read == {"originals": [True], "contenders": [False]}


def test_a_single_original_has_no_other_to_be_compared_with(done):
    _, _, workshop, _ = done
    (trial,) = trials_of(k=[1], pool_size=12)[1]
    tables = rows_of(trial, workshop)
    (row,) = group(tables, "original")[0]
    table = to_table("networks", tables["networks"]).to_pylist()
    assert np.isnan(row["max_similarity"])
    assert np.isnan(row["distance"])
    assert len(table) == len(tables["networks"])
    assert np.isnan(tables["weights"][0]["similarity_original"])
    assert tables["weights"][0]["ensemble_accuracy"] == row["test_accuracy"]


def test_the_same_experiment_gives_the_same_rows(done, tmp_path):
    _, _, workshop, tables = done
    elsewhere = replace(workshop, store=type(workshop.store)(Storage(str(tmp_path))))
    again = rows_of(trials_of()[1][0], elsewhere)
    for name, rows in tables[6].items():
        for one, other in zip(rows, again[name], strict=True):
            for column in set(one) - set(WHEN_AND_WHERE):
                np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


def test_generated_networks_do_not_depend_on_how_many_others_are_evaluated(done):
    """More controls, the same generated networks with the same answers."""
    _, _, workshop, tables = done
    more = [*WEIGHTS["controls"], {"name": "noise", "networks": 40, "scales": [1.0]}][1:]
    trial = trials_of(controls=more)[1][0]
    found = rows_of(trial, workshop)
    np.testing.assert_array_equal(group(found, "generated")[1], group(tables[6], "generated")[1])
    np.testing.assert_array_equal(group(found, "gaussian")[1], group(tables[6], "gaussian")[1])


def test_rows_do_not_depend_on_how_evaluation_is_cut(done, tmp_path):
    _, _, workshop, tables = done
    trial = trials_of(shard=16)[1][0]
    assert [len(stages) for stages in trial.reads.values()] == [1, 2]
    for stage in (stage for stages in trial.reads.values() for stage in stages):
        workshop.store.discard(stage.kind, stage.key)
    found = rows_of(trial, workshop)
    for name, rows in tables[6].items():
        assert len(rows) == len(found[name])
        for one, other in zip(rows, found[name], strict=True):
            for column in set(one) - set(WHEN_AND_WHERE):
                np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


@pytest.mark.parametrize("subset", ["first", "strided", "random"])
def test_the_originals_of_a_trial_are_those_of_its_subset(workshop, subset):
    (trial,) = trials_of(k=[3], pool_size=9, subsets=[subset])[1]
    made = load_file(workshop.file(generated(trial), "vectors.safetensors"))
    places = list(made["places"])
    drawn = sorted(generator(0, "subset", 3).choice(9, 3, replace=False))
    assert places == {"first": [0, 1, 2], "strided": [0, 4, 8], "random": drawn}[subset]
    assert made["generated"].shape == (5, 16)
    assert made["reconstructed"].shape == (3, 16)


def test_what_only_changes_the_speed_changes_no_key():
    slow = trials_of()[1]
    faster = {name: {**WEIGHTS[name], "workers": 4} for name in ("train", "pool")}
    assert [trial.key for trial in trials_of(**faster)[1]] == [trial.key for trial in slow]


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"channels": [8, 4], "groups": 2}},
        {"train": {**WEIGHTS["train"], "steps": 61}},
        {"parameters": ["norm1"]},
        {"pool": {"every": 3, "workers": 0}},
        {"pool_size": 20},
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
        ({"k": [13], "pool_size": 12}, ["weights.k", "13 is not between 1 and 12"]),
        ({"k": [3, 3]}, ["weights.k", "3 is given twice"]),
        ({"subsets": ["first", "first"]}, ["weights.subsets", "first is given twice"]),
        ({"subsets": ["last"]}, ["subsets"]),
        ({"network": {"channels": [7], "groups": 2}}, ["7 is not divisible by groups = 2"]),
        ({"network": {"channels": [0]}}, ["channels"]),
        ({"sampling_steps": 21}, ["sampling_steps = 21 is more than diffusion.timesteps = 20"]),
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
        assert set(STUDY.axes) <= set(trial.axes)
        assert trial.objective in TABLES["weights"]
