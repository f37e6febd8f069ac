"""Originals along trajectories: what is trained, what is kept, what is held out."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_weights import WEIGHTS, trials_of

from harness.core.errors import UserError
from harness.models.classifiers.build import build
from harness.weights.checkpoints import (
    NETWORK,
    Checkpoints,
    chosen,
    held_out,
    open_checkpoints,
    open_trajectory,
)

RESNET = {"name": "resnet", "widths": [4, 8], "depths": [1, 1]}


def checkpoints_of(context, **weights):
    """Returns the trial, its checkpoints as it was read, and the stage of the checkpoints."""
    trial = trials_of(**weights)[1][0]
    stage = trial.needs["checkpoints"]
    return trial, open_checkpoints(stage, context), stage


def test_checkpoints_are_held_out_evenly_and_no_original_is_one(context):
    trial, checkpoints, _ = checkpoints_of(context, k=[3, 12])
    assert checkpoints.vectors_NP.shape == (16, 16)
    assert checkpoints.held_out_N.sum() == 4
    assert list(checkpoints.steps_N) == list(range(2, 34, 2))
    contenders = trial.needs["contenders"].config
    places = {k: chosen(checkpoints, {**contenders, "k": k}) for k in range(1, 13)}
    for k, some in places.items():
        assert len(set(some)) == k
        assert not checkpoints.held_out_N[some].any()
        assert set(some) <= set(places[12])


@pytest.mark.slow
@pytest.mark.parametrize("subset", ["first", "strided", "random"])
def test_subsets_are_nested(context, subset):
    _, checkpoints, _ = checkpoints_of(context)
    config = {"subset": subset, "seed": 3}
    small, large = (set(chosen(checkpoints, {**config, "k": k})) for k in (4, 9))
    assert small < large


def test_only_what_was_held_out_between_the_originals_is_compared_with():
    steps = np.arange(10, 110, 10)
    held = np.isin(np.arange(10), [1, 4, 6, 9])
    checkpoints = Checkpoints(np.zeros((10, 1)), steps, np.zeros(10), held, None)
    assert list(held_out(checkpoints, np.array([0, 2, 5, 8]))) == [1, 4, 6]
    assert list(held_out(checkpoints, np.array([5, 7]))) == [6]
    assert list(held_out(checkpoints, np.array([2]))) == []


def test_trajectories_of_parts_begin_at_one_network_and_go_their_own_ways(context):
    trial, checkpoints, stage = checkpoints_of(
        context, checkpoints={"every": 2, "held_out": 0, "trajectories": 3, "workers": 0}, k=[7]
    )
    assert len(stage.needs) == 3
    assert {one.needs["network"].key for one in stage.needs.values()} == {trial.needs["network"].key}
    assert list(checkpoints.steps_N) == [2, 2, 2, 4, 4, 4, 6]
    assert list(checkpoints.trajectory_N) == [0, 1, 2, 0, 1, 2, 0]
    vectors, steps = open_trajectory(stage.needs["trajectory 1"], context)
    np.testing.assert_array_equal(checkpoints.vectors_NP[[1, 4]], vectors[:2])
    np.testing.assert_array_equal(steps, [2, 4, 6])
    assert len(np.unique(checkpoints.vectors_NP, axis=0)) == 7
    assert not trial.config["permuted"]


def test_trajectories_of_whole_networks_have_networks_of_their_own_and_say_so(context):
    trial = trials_of(
        parameters=["all"], checkpoints={"every": 2, "held_out": 0, "trajectories": 2, "workers": 0}, k=[4]
    )[1][0]
    trajectories = trial.needs["checkpoints"].needs
    assert len({one.needs["network"].key for one in trajectories.values()}) == 2
    assert trial.config["permuted"]
    first = open_trajectory(trajectories["trajectory 0"], context)[0]
    second = open_trajectory(trajectories["trajectory 1"], context)[0]
    assert np.abs(first[0] - second[0]).max() > 0.1
    assert first.shape[1] == sum(value.numel() for value in network_of(trial).parameters())


def network_of(trial):
    return build(trial.needs["network"].config["network"])


def test_another_seed_is_none_of_the_collected_trajectories(context):
    trial, checkpoints, _ = checkpoints_of(context)
    vectors, steps = open_trajectory(trial.needs["contenders"].needs["other_seed"], context)
    assert len(vectors) == 2
    assert steps[-1] == checkpoints.steps_N[-1]
    gaps = np.abs(vectors[:, None] - checkpoints.vectors_NP[None]).max(2)
    assert gaps.min() > 0


def test_fine_tuning_goes_on_from_the_last_of_the_originals(context):
    slow = [{"name": "fine_tuned", "networks": 3, "learning_rate": 1e-9}]
    trial, checkpoints, _ = checkpoints_of(context, k=[6], controls=slow)
    vectors, _ = open_trajectory(trial.needs["contenders"].needs["fine_tuned"], context)
    last = chosen(checkpoints, trial.needs["contenders"].config)[-1]
    np.testing.assert_allclose(vectors, np.repeat(checkpoints.vectors_NP[last : last + 1], 3, 0), atol=1e-6)


def test_an_epoch_is_as_many_steps_as_it_takes_to_see_every_image(context):
    data = {"labels_per_class": 7}  # 70 images
    checkpoints = {"every": 2, "unit": "epoch", "batch": 32, "held_out": 0, "workers": 0}
    train = {"epochs": 1.5, "batch": 20, "schedule": "step", "decay_epochs": 1, "workers": 0}
    trial = trials_of(data=data, checkpoints=checkpoints, k=[2], train=train)[1][0]
    assert trial.needs["network"].config["train"]["steps"] == 6  # 1.5 epochs of 4 steps
    assert trial.needs["network"].config["train"]["decay_every"] == 4
    assert list(open_checkpoints(trial.needs["checkpoints"], context).steps_N) == [6, 12]  # 3 steps an epoch


def statistics(weights, name="running_mean"):
    return {key: value for key, value in weights.items() if name in key}


def test_running_statistics_stay_the_base_networks_and_training_uses_them(context):
    trial, checkpoints, stage = checkpoints_of(context, network=RESNET, parameters=["*normalization*"], k=[3])
    assert not any("running" in name for name in checkpoints.layout.names)
    from harness.weights import collect

    trajectory = stage.needs["trajectory 0"]
    network = collect.collection(trajectory, context).model()
    base = load_file(context.file(trial.needs["network"], NETWORK))
    network(torch.randn(4, 1, 8, 8))
    for name, value in statistics(network.state_dict()).items():
        np.testing.assert_array_equal(value.numpy(), base[name])
    assert statistics(base)


def test_running_statistics_are_collected_where_asked_for(context):
    _, checkpoints, _ = checkpoints_of(
        context, network=RESNET, parameters=["*normalization*"], buffers="collected", k=[3]
    )
    names = [name for name in checkpoints.layout.names if "running_mean" in name]
    assert names
    edges = dict(zip(checkpoints.layout.names, np.cumsum([0, *checkpoints.layout.sizes]), strict=False))
    for name in names:
        column = checkpoints.vectors_NP[:, edges[name]]
        assert len(np.unique(column)) == len(column), "they move from checkpoint to checkpoint"


def test_whole_networks_with_statistics_from_several_trainings_need_them_collected():
    checkpoints = {"held_out": 0, "trajectories": 2, "workers": 0}
    with pytest.raises(UserError, match=r"buffers: collected"):
        trials_of(network=RESNET, parameters=["all"], checkpoints=checkpoints)
    trials_of(network=RESNET, parameters=["all"], checkpoints=checkpoints, buffers="collected")


def test_views_of_the_images_are_learnt_from_where_asked_for(context):
    plain, viewed = (
        load_file(context.file(trials_of(**more)[1][0].needs["network"], NETWORK))
        for more in ({}, {"augment": {}})
    )
    assert any(np.abs(plain[name] - viewed[name]).max() > 1e-3 for name in plain)


def test_a_network_that_is_not_trained_is_drawn_from_the_seed(context):
    train = {**WEIGHTS["train"], "steps": 0}
    drawn = [
        load_file(context.file(trials_of(seed, train=train)[1][0].needs["network"], NETWORK))
        for seed in (0, 1)
    ]
    assert np.abs(drawn[0]["conv1.weight"] - drawn[1]["conv1.weight"]).max() > 0.01
