"""Study 2 as a plan: which trials there are, what they share, and what is refused."""

import json

import numpy as np
import pytest
from tiny_weights import WEIGHTS, trials_of

from harness.core.config import parse
from harness.core.errors import UserError
from harness.weights.config import Training, WeightsConfig
from harness.weights.study import STUDY, variations


def axes(trials, *names):
    return [tuple(trial.axes[name] for name in names) for trial in trials]


def stages(trials, kind):
    """Returns the keys of all stages of a kind that trials need, directly or not."""
    found, waiting = set(), [stage for trial in trials for stage in trial.stages]
    while waiting:
        stage = waiting.pop()
        waiting += stage.needs.values()
        if stage.kind == kind:
            found.add(stage.key)
    return found


def test_a_trial_for_each_k_subset_and_run_of_the_generator():
    _, trials = trials_of(k=[2, 5], subsets=["first", "random"], generators=3)
    assert sorted(axes(trials, "k", "subset", "generator")) == [
        (k, subset, run) for k in (2, 5) for subset in ("first", "random") for run in range(3)
    ]
    assert len({trial.key for trial in trials}) == 12
    assert len(stages(trials, "checkpoints")) == 1
    assert len(stages(trials, "autoencoder")) == 12


def test_runs_of_the_generator_share_everything_but_what_is_generated():
    _, (one, other) = trials_of(k=[4], generators=2)
    assert one.reads["originals"] == other.reads["originals"]
    for kind in ("autoencoder", "denoiser", "generated"):
        assert not stages([one], kind) & stages([other], kind)


def test_vary_is_every_combination_and_only_what_it_touches_is_made_anew():
    vary = {"autoencoder.latent_noise": [0.0, 0.1], "parameters": [["norm2"], ["norm1", "fc.bias"]]}
    _, trials = trials_of(k=[4], vary=vary)
    assert [(trial.axes["parameters"], json.loads(trial.axes["varied"])) for trial in trials] == [
        ("norm2", {"autoencoder.latent_noise": 0.0, "parameters": ["norm2"]}),
        ("norm1 fc.bias", {"autoencoder.latent_noise": 0.0, "parameters": ["norm1", "fc.bias"]}),
        ("norm2", {"autoencoder.latent_noise": 0.1, "parameters": ["norm2"]}),
        ("norm1 fc.bias", {"autoencoder.latent_noise": 0.1, "parameters": ["norm1", "fc.bias"]}),
    ]
    assert axes(trials_of(k=[4])[1], "varied") == [(None,)]
    assert [trial.config["columns"]["latent_noise"] for trial in trials] == [0.0, 0.0, 0.1, 0.1]
    assert len(stages(trials, "network")) == 1
    assert len(stages(trials, "checkpoints")) == 2
    assert len(stages(trials, "autoencoder")) == 4


def test_both_editions_in_one_experiment_with_values_over_them():
    given = {
        "network": WEIGHTS["network"],
        "parameters": ["norm"],
        "generate": 7,
        "vary": {"preset": ["2024-02", "2024-12"]},
    }
    found = [one for _, one in variations(parse(WeightsConfig, given, "weights"))]
    assert [one.preset for one in found] == ["2024-02", "2024-12"]
    assert [one.generate for one in found] == [7, 7]
    assert [one.k for one in found] == [[200], [300]]
    assert found[0].autoencoder.edition == "2024-02"
    assert found[1].autoencoder.edition == "2024-12"
    assert {one.network.name for one in found} == {"convnet"}


def test_seeds_train_networks_of_their_own_on_the_same_split():
    dataset, trials = trials_of(k=[4], seeds=[3, 8])
    assert [trial.seed for trial in trials] == [3, 8]
    assert {trial.data_fingerprint for trial in trials} == {dataset.fingerprint}
    assert len(stages(trials, "network")) == 2
    assert len(stages(trials, "dataset")) == 1


def test_further_data_sets_have_networks_of_their_own():
    also = [{"name": "digits", "label": "fewer digits", "max_train": 150, "max_test": 40}]
    _, trials = trials_of(k=[4], also=also)
    assert [trial.data for trial in trials] == ["digits", "fewer digits"]
    assert len(stages(trials, "network")) == 2
    with pytest.raises(UserError, match=r"weights\.also: 'digits' is given twice"):
        trials_of(also=[{"name": "digits"}])


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"vary": {"k": [[1]]}}, ["vary", "k is swept by itself"]),
        ({"vary": {"autoencoder.latnt": [3]}}, ["autoencoder.latnt", "did you mean 'latent"]),
        ({"vary": {"autoencoder.latent": ["four"]}}, ["autoencoder.latent", "four"]),
        ({"vary": {"autoencoder.latent": []}}, ["autoencoder.latent", "at least 1"]),
        ({"k": [13], "checkpoints": {"size": 12, "workers": 0}}, ["weights.k", "13 is not between 1 and 12"]),
        ({"k": [0]}, ["weights.k", "0 is less than 1"]),
        ({"k": [6, 6]}, ["weights.k", "6 is given twice"]),
        ({"seeds": [1, 1]}, ["weights.seeds", "1 is given twice"]),
        ({"parameters": ["nrom2"]}, ["'nrom2'", "norm2"]),
        ({"preset": "2024-11"}, ["preset", "2024-12"]),
        ({"network": "resnet19"}, ["resnet19", "resnet18"]),
        ({"network": {"name": "convnet", "channels": [8], "groups": 3}}, ["channels = 8", "groups = 3"]),
        ({"autoencoder": {"latent": 17}}, ["17", "16"]),
        ({"sampling_steps": 21}, ["sampling_steps", "20"]),
        ({"k": [10**9]}, ["k.0 = 1000000000", "1000000"]),
        ({"vary": {"autoencoder": {"latent": [2, 3]}}}, ["vary: a path is one key: autoencoder.latent: ["]),
        ({"vary": {"autoencoder.latent": [2, 3, 2]}}, ["autoencoder.latent: 2 is given twice"]),
        ({"vary": {"autoencoder.latent_noise": [0, 0.0]}}, ["autoencoder.latent_noise: 0 is given twice"]),
        ({"vary": {"": [1]}}, ["vary: '' is not a path"]),
        ({"vary": {"generate=3; x": [1]}}, ["'generate=3; x' is not a path"]),
        ({"vary": 3}, ["vary = 3: expected a mapping, such as {autoencoder.latent_noise: [0, 0.1]}"]),
        ({"vary": {"autoencoder.latent": [2, "x"]}}, ['weights.vary: autoencoder.latent = "x"']),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(weights, words):
    with pytest.raises(UserError) as caught:
        trials_of(**weights)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_what_varies_is_told_even_where_it_is_nothing():
    trials = trials_of(vary={"controls": [[], ["noise"]]}, k=[6])[1]
    assert [trial.axes["varied"] for trial in trials] == ['{"controls": []}', '{"controls": ["noise"]}']


RESNET = {"name": "resnet", "widths": [8, 8], "depths": [1, 1]}


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"controls": ["other_seed"]}, True),
        ({"controls": ["fine_tuned", "noise"]}, False),
        ({"controls": ["other_seed"], "buffers": "collected"}, False),
        ({"controls": ["other_seed"], "parameters": ["norm"]}, False),
        ({"controls": ["other_seed"], "network": "mlp"}, False),  # it has no running statistics
    ],
)
def test_a_whole_network_of_another_seed_is_not_run_with_this_ones_running_statistics(values, refused):
    values = {"network": RESNET, "parameters": ["all"], **values}
    if refused:
        with pytest.raises(UserError, match="buffers: collected, or leave other_seed out"):
            trials_of(**values)
    else:
        assert trials_of(**values)[1]


@pytest.mark.slow
def test_a_description_counts_what_varies_and_what_lies_before():
    config = parse(WeightsConfig, {**WEIGHTS, "vary": {"parameters": [["norm2"], ["conv1"]]}}, "weights")
    text = "\n".join(STUDY.describe(config, 8, 1))
    assert "16 of" in text
    assert "100.0%" not in text
    assert " 0.0% of them precede" in text  # conv1 is the first


def test_epochs_become_steps():
    train = Training(epochs=3, batch=10, schedule="step", decay_epochs=2, steps=5)
    found = train.on(95)
    assert (found.steps, found.decay_every) == (30, 20)
    assert Training(steps=5, batch=10).on(95).steps == 5
    steps = [Training(epochs=e, batch=1).on(1).steps for e in np.linspace(0.1, 1, 5)]
    assert steps == [1] * 5
