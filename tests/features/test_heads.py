"""The contract that every head keeps. A head that is added needs one line in `CASES`."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from harness.core.config import parse
from harness.core.errors import UserError
from harness.features.config import FeaturesConfig
from harness.features.heads.head import HEADS, Labelled
from harness.features.heads.linear import Linear
from harness.features.heads.mlp import MLP

CASES = {
    "linear": {"name": "linear", "strengths": [1e-2]},
    "mlp": {"name": "mlp", "hidden": [16], "train": {"steps": 60, "batch": 32, "learning_rate": 0.01}},
}


@pytest.fixture(params=HEADS.names())
def head(request):
    """Every registered head, small enough for a test."""
    assert request.param in CASES, f"add a line for head {request.param!r} to CASES"
    return parse(FeaturesConfig, {"heads": [CASES[request.param]]}, "features").heads[0]


def blobs(classes=4, width=6, n=300):
    x, y = make_blobs(n, width, centers=classes, cluster_std=1.0, random_state=0)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return Labelled(x[: n // 2], y[: n // 2]), Labelled(x[n // 2 :], y[n // 2 :])


def test_a_head_carries_its_registered_name_and_a_version(head):
    assert HEADS.load(head.name) is type(head)
    assert type(head).model_fields["name"].default == head.name
    assert isinstance(head.version, int)


def test_a_heads_values_survive_the_journey_to_a_worker(head):
    values = json.loads(json.dumps(head.keyed()))
    assert HEADS.load(head.name).model_validate(values).keyed() == values


def test_a_head_learns_what_is_easy(head):
    train, validation = blobs()
    fitted = head.fit(train, validation, 4, 0, "cpu")
    predicted = fitted.predict(validation.x_ND)
    assert predicted.shape == validation.labels_N.shape
    assert predicted.dtype.kind in "iu"
    assert set(predicted) <= set(range(4))
    assert np.mean(predicted == validation.labels_N) > 0.95
    assert fitted.regularisation is None or fitted.regularisation > 0


def test_a_head_is_the_same_every_time(head):
    train, validation = blobs()
    torch.manual_seed(0)
    first = head.fit(train, validation, 4, 3, "cpu")
    torch.manual_seed(1)
    second = head.fit(train, validation, 4, 3, "cpu")
    np.testing.assert_array_equal(first.predict(validation.x_ND), second.predict(validation.x_ND))
    assert first.regularisation == second.regularisation


def test_a_head_predicts_each_sample_by_itself(head):
    train, validation = blobs()
    fitted = head.fit(train, validation, 4, 0, "cpu")
    alone = [int(fitted.predict(x_D[None])[0]) for x_D in validation.x_ND[:40]]
    np.testing.assert_array_equal(fitted.predict(validation.x_ND)[:40], alone)


def test_a_head_leaves_its_data_and_torchs_random_state_alone(head):
    train, validation = blobs()
    before = [array.copy() for part in (train, validation) for array in part]
    state = torch.random.get_rng_state()
    head.fit(train, validation, 4, 0, "cpu").predict(validation.x_ND)
    for array, expected in zip((*train, *validation), before, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_head_bears_a_class_that_training_lacks(head):
    train, validation = blobs()
    seen = train.labels_N != 2
    fitted = head.fit(Labelled(train.x_ND[seen], train.labels_N[seen]), validation, 4, 0, "cpu")
    known = validation.labels_N != 2
    assert np.mean(fitted.predict(validation.x_ND)[known] == validation.labels_N[known]) > 0.7


@pytest.mark.parametrize(("width", "n"), [(1, 60), (200, 40)])
def test_a_head_takes_one_feature_or_more_than_samples(head, width, n):
    train, validation = blobs(2, width, n)
    fitted = head.fit(train, validation, 2, 0, "cpu")
    assert np.mean(fitted.predict(validation.x_ND) == validation.labels_N) > 0.8


def test_a_head_bears_few_samples(head):
    train, validation = blobs(2, 3, 4)
    assert head.fit(train, validation, 2, 0, "cpu").predict(validation.x_ND).shape == (2,)


def xor(n, seed):
    draw = np.random.default_rng(seed)
    corner = draw.integers(0, 2, (n, 2))
    x = (2 * corner - 1 + 0.3 * draw.normal(size=(n, 2))).astype(np.float32)
    return Labelled(x, corner.sum(1) % 2)


def test_a_perceptron_learns_what_a_line_cannot():
    train, validation, test = xor(400, 0), xor(200, 1), xor(500, 2)
    shares = {}
    for head in (MLP(hidden=[32]), Linear()):
        fitted = head.fit(train, validation, 2, 0, "cpu")
        shares[head.name] = np.mean(fitted.predict(test.x_ND) == test.labels_N)
    assert shares["mlp"] > 0.97
    assert shares["linear"] < 0.7


def test_a_perceptron_does_not_look_at_validation():
    train, validation = blobs()
    shuffled = Labelled(validation.x_ND[::-1].copy(), np.zeros_like(validation.labels_N))
    head = MLP(hidden=[8])
    one, other = (head.fit(train, seen, 4, 0, "cpu") for seen in (validation, shuffled))
    np.testing.assert_array_equal(one.predict(validation.x_ND), other.predict(validation.x_ND))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("lineer", "did you mean 'linear'?"),
        ({"name": "linear", "strengths": []}, "strengths"),
        ({"name": "linear", "strengths": [0.0]}, "strengths.0"),
        ({"name": "linear", "strength": [1.0]}, "did you mean 'strengths'?"),
        ({"name": "mlp", "hidden": []}, "hidden"),
        ({"name": "mlp", "hidden": [0]}, "hidden"),
    ],
)
def test_bad_heads_are_refused(values, words):
    with pytest.raises(UserError) as caught:
        parse(FeaturesConfig, {"heads": [values]}, "features")
    assert words in str(caught.value)
