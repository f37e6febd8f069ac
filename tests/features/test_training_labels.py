"""Labels in the training of a backbone: only those that probes may learn from, and only for who asks for them."""

import numpy as np
import pytest
import torch
from tiny_features import FEATURES, pick, trials_of

from harness.core.errors import UserError
from harness.data.dataset import open_dataset
from harness.features.backbone import denoising
from harness.models.backbones.denoiser import load_denoiser
from harness.models.backbones.family import build_network
from harness.training.regularisers import BESIDE, UNLABELLED

LSEP = {"name": "lsep", "block": 5, "weights": [2.0]}


def backbone_of(regulariser="lsep", **given):
    """Returns the stage of a backbone trained with LSEP, or without."""
    trials = trials_of(**{"regularisers": ["none", LSEP], "blocks": [5], "pools": [1], **given})[1]
    return pick(
        trials, features="trained", block=5, timestep=0, head="linear", regulariser=regulariser
    ).needs["backbone"]


def test_only_images_that_probes_may_learn_from_have_a_label(context):
    stage = backbone_of()
    task, dataset = denoising(stage, context), open_dataset(stage.needs["dataset"], context)
    labels_M, train_M = task._labels_M.numpy(), np.sort(dataset.splits["train"])
    with_label = labels_M != UNLABELLED
    assert len(labels_M) == len(train_M) > 40
    assert with_label.sum() == 4 * 10
    index_M = task._x._index_M
    assert set(index_M[with_label]) == set(dataset.labelled(4))
    np.testing.assert_array_equal(labels_M[with_label], dataset.labels[index_M[with_label]])


def test_without_such_a_regulariser_training_has_no_labels(context):
    stage = backbone_of(None)
    assert denoising(stage, context)._labels_M is None
    assert "labels_per_class" not in stage.config
    assert stage.key == backbone_of(None, data={"labels_per_class": 5}).key


def test_other_labels_are_another_backbone():
    assert backbone_of().key != backbone_of(data={"labels_per_class": 5}).key


def test_the_classifier_starts_beside_the_network_that_would_be_trained_without_it(context):
    stage = backbone_of()
    torch.manual_seed(0)
    with_classifier = denoising(stage, context).model()
    torch.manual_seed(0)
    alone = build_network(stage.config["network"])
    assert with_classifier.get_submodule(BESIDE).weight.shape == (10, 16)
    for name, value in alone.state_dict().items():
        assert torch.equal(with_classifier.state_dict()[name], value)


@pytest.mark.slow
def test_the_backbone_is_stored_without_the_classifier_and_its_block_was_trained(context):
    train = {**FEATURES["train"], "steps": 3}
    data = {"labels_per_class": 50}  # with fewer, three batches may hold none
    folders = [context.folder(backbone_of(name, train=train, data=data)) for name in ("lsep", None)]
    first, second = (load_denoiser(folder).network.state_dict() for folder in folders)
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_labels_that_are_not_there_are_asked_for_when_it_is_planned():
    with pytest.raises(
        UserError, match=r"features\.regularisers, lsep: it learns from labels, and data\.labels_per"
    ):
        backbone_of(data={"labels_per_class": 1000})
