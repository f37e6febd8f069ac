"""Heads on images with several labels, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import average_precision_score

from harness.core.errors import UserError
from harness.features.heads.cnn import CNN
from harness.features.heads.head import refuse_single_label
from harness.features.heads.knn import KNN
from harness.features.heads.linear import Linear
from harness.features.heads.mlp import MLP
from harness.features.heads.ridge import Ridge
from harness.features.screening_probe import best_left_out, left_out
from harness.testing.heads import tagged
from harness.training.tasks import label_loss


def blurred():
    """Returns training and validation samples that are hard to rank."""
    draw = np.random.default_rng(3)
    parts = tagged(120)
    for part in parts:
        part.x[:] += 3 * draw.normal(size=part.x.shape)
    return parts


def score(scores, labels):
    """Returns scikit-learn's mean average precision over classes with a positive sample."""
    return np.mean(
        [
            average_precision_score(labels[:, k], scores[:, k])
            for k in range(labels.shape[1])
            if labels[:, k].any()
        ]
    )


@pytest.mark.parametrize("strength", [1e-3, 0.1])
def test_linear_is_a_logistic_regression_of_each_class(strength):
    train, validation = blurred()
    fitted = Linear(strengths=[strength]).fit(train, validation, 4, 0, "cpu")
    layer = fitted.module[1]
    for number in range(3):
        other = LogisticRegression(C=1 / (strength * len(train.x)), tol=1e-10, max_iter=10_000)
        other.fit(train.x.astype(float), train.labels_N[:, number])
        np.testing.assert_allclose(layer.weight[number].numpy(), other.coef_[0], atol=3e-4)
        np.testing.assert_allclose(layer.bias[number].item(), other.intercept_[0], atol=3e-4)


def test_ridge_is_a_regression_on_each_class():
    train, validation = tagged()
    fitted = Ridge(strengths=[0.5]).fit(train, validation, 4, 0, "cpu")
    other = SklearnRidge(alpha=0.5 * len(train.x)).fit(train.x.astype(float), 2.0 * train.labels_N - 1)
    np.testing.assert_allclose(fitted.scores(validation.x), other.predict(validation.x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("head", [Linear, Ridge])
def test_the_strength_is_that_with_the_highest_map_on_validation(head):
    train, validation = blurred()
    strengths = [1e-4, 1e-2, 1.0, 10.0]
    alone = {
        one: score(
            head(strengths=[one]).fit(train, validation, 4, 0, "cpu").scores(validation.x),
            validation.labels_N,
        )
        for one in strengths
    }
    assert len(set(alone.values())) > 1
    chosen = head(strengths=strengths).fit(train, validation, 4, 0, "cpu").regularisation
    assert alone[chosen] == pytest.approx(max(alone.values()), abs=1e-9)


def test_weight_decay_is_chosen_by_map():
    train, validation = blurred()
    steps = {"steps": 30, "batch": 16, "learning_rate": 1e-2, "workers": 0}
    decays = [0.0, 3.0, 30.0]
    alone = {
        one: score(
            MLP(hidden=[8], train={**steps, "weight_decay": one})
            .fit(train, validation, 4, 0, "cpu")
            .scores(validation.x),
            validation.labels_N,
        )
        for one in decays
    }
    found = MLP(hidden=[8], train=steps, weight_decays=decays).fit(train, validation, 4, 0, "cpu")
    assert alone[found.regularisation] == max(alone.values())


def test_the_loss_is_torchs_multilabel_soft_margin():
    logits, labels = torch.randn(5, 3), (torch.rand(5, 3) < 0.5).to(torch.int8)
    expected = torch.nn.MultiLabelSoftMarginLoss(reduction="none")(logits, labels.float())
    torch.testing.assert_close(label_loss(logits, labels), expected)
    numbers = torch.tensor([0, 2, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(logits, numbers, reduction="none")
    torch.testing.assert_close(label_loss(logits, numbers), expected, rtol=0, atol=0)


def test_a_screen_chooses_by_the_map_of_left_out_scores():
    train, _ = blurred()
    x, strengths = train.x.astype(float), [1e-6, 1e-2, 1.0, 1e3]
    found, strength = best_left_out(x, train.labels_N, 4, strengths)
    marks = [score(one, train.labels_N) for one in left_out(x, 2.0 * train.labels_N - 1, strengths)]
    assert len(set(marks)) > 1
    assert marks[strengths.index(strength)] == pytest.approx(max(marks))
    assert score(found, train.labels_N) == pytest.approx(max(marks))
    for place in range(3):
        others = np.arange(len(x)) != place
        model = SklearnRidge(alpha=strength * len(x)).fit(x[others], 2.0 * train.labels_N[others] - 1)
        np.testing.assert_allclose(found[place], model.predict(x[place : place + 1])[0], rtol=1e-6)


def test_heads_of_one_label_an_image_are_refused():
    refuse_single_label([Linear(), Ridge(), MLP(), CNN()], "tags", "features.heads")
    with pytest.raises(
        UserError, match=r"features\.heads: head knn, near takes one label an image, but data set tags is"
    ):
        refuse_single_label([Linear(), KNN(), KNN(label="near")], "tags", "features.heads")
