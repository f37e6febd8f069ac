"""The contract that every head keeps. A head that is added needs one line in `CASES`."""

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.datasets import make_blobs
from sklearn.metrics import log_loss

from harness.core.config import parse, part_of
from harness.core.errors import UserError
from harness.features.config import FeaturesConfig
from harness.features.heads.head import HEADS, Labelled, head_of, refuse_twins
from harness.features.heads.linear import Linear
from harness.features.heads.mlp import MLP

QUICK = {"steps": 60, "batch": 32, "learning_rate": 0.01}
CASES = {
    "linear": {"name": "linear", "strengths": [1e-2]},
    "ridge": {"name": "ridge"},
    "mlp": {"name": "mlp", "hidden": [16], "train": QUICK},
    "cnn": {"name": "cnn", "widths": [16, 16], "train": QUICK},
    "attention": {
        "name": "attention",
        "blocks": 1,
        "width": 16,
        "attention_heads": 2,
        "train": {**QUICK, "warmup": 0},
    },
    "difformer": {
        "name": "difformer",
        "blocks": 1,
        "width": 16,
        "attention_heads": 2,
        "train": {**QUICK, "warmup": 0},
    },
    "knn": {"name": "knn", "neighbours": [1, 5]},
}
SHAPES = [(6,), (3, 1, 1), (4, 5, 5)]


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
    assert part_of(HEADS, values).keyed() == values


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


def maps(shape, classes=3, n=60):
    """Feature maps whose classes differ in the mean of every pixel."""
    draw = np.random.default_rng(0)
    centre = 2 * draw.normal(size=(classes, *shape))
    labels = np.arange(n) % classes
    x = (centre[labels] + draw.normal(size=(n, *shape))).astype(np.float32)
    return Labelled(x[: n // 2], labels[: n // 2]), Labelled(x[n // 2 :], labels[n // 2 :])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fitted_heads_weights_can_be_loaded_again(head, shape):
    train, validation = maps(shape)
    fitted = head.fit(train, validation, 3, 0, "cpu")
    scores = fitted.scores(validation.x)
    assert scores.shape == (30, 3)
    again = head.network(shape, 3)
    again.load_state_dict(fitted.network.state_dict())
    np.testing.assert_array_equal(fitted._replace(network=again.eval()).scores(validation.x), scores)
    assert np.mean(scores.argmax(1) == validation.labels_N) > 0.8


def test_heads_of_other_shapes_refuse_each_others_weights(head):
    train, validation = maps((4, 5, 5))
    fitted = head.fit(train, validation, 3, 0, "cpu")
    with pytest.raises(RuntimeError, match="size mismatch"):
        head.network((5, 5, 5), 3).load_state_dict(fitted.network.state_dict())


def test_a_head_that_learns_by_steps_gives_all_its_parameters_a_gradient(head):
    if not head.trained_by_steps:
        pytest.skip("solved, not stepped")
    network = head.network((4, 3, 3), 3)
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=draw)
    x = torch.randn(8, 4, 3, 3, generator=draw)
    torch.nn.functional.cross_entropy(network(x), torch.arange(8) % 3).backward()
    assert all(float(one.grad.abs().sum()) > 0 for one in network.parameters())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_an_error(head, bad):
    train, validation = blobs()
    train.x[3, 2] = bad
    with pytest.raises(FloatingPointError, match=r"not finite|the loss is nan"):
        head.fit(train, validation, 4, 0, "cpu")


def test_a_head_may_have_a_label_which_changes_no_result(head):
    labelled = parse(FeaturesConfig, {"heads": [{**CASES[head.name], "label": "my-own_1.0"}]}, "f").heads[0]
    assert (labelled.name, labelled.axis, head.axis) == (head.name, "my-own_1.0", head.name)
    assert labelled.keyed() == head.keyed()
    assert head_of(json.loads(json.dumps(head.keyed()))) == head


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "difformer"])
def test_weight_decay_is_chosen_on_validation(name):
    case, decays = {**CASES[name], "train": {**CASES[name]["train"], "steps": 15}}, [0.0, 0.3]
    (head,) = parse(FeaturesConfig, {"heads": [{**case, "weight_decays": decays}]}, "f").heads
    train, validation = maps((4, 3, 3))
    fitted = head.fit(train, validation, 3, 0, "cpu")
    each = {}
    for decay in decays:
        (one,) = parse(
            FeaturesConfig,
            {"heads": [{**case, "train": {**case["train"], "weight_decay": decay}}]},
            "f",
        ).heads
        each[decay] = one.fit(train, validation, 3, 0, "cpu").scores(validation.x)
    np.testing.assert_array_equal(fitted.scores(validation.x), each[fitted.regularisation])
    losses = {decay: log_loss(validation.labels_N, softmax(scores, 1)) for decay, scores in each.items()}
    rights = {decay: np.mean(scores.argmax(1) == validation.labels_N) for decay, scores in each.items()}
    assert fitted.regularisation == max(decays, key=lambda decay: (rights[decay], -losses[decay]))


def test_without_decays_to_choose_from_none_is_recorded():
    train, validation = blobs()
    assert MLP(hidden=[4]).fit(train, validation, 4, 0, "cpu").regularisation is None


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
        ({"name": "mlp", "weight_decays": [-1.0]}, "weight_decays.0"),
        ({"name": "ridge", "strengths": [0.0]}, "strengths.0"),
        ({"name": "cnn", "widths": []}, "widths"),
        ({"name": "knn", "neighbours": [0]}, "neighbours.0"),
        ({"name": "knn", "temperature": 0.0}, "temperature"),
        ({"name": "attention", "edition": "relesed"}, "did you mean 'released'?"),
        ({"name": "attention", "width": 10}, "width = 10: not divisible by attention_heads = 8"),
        ({"name": "difformer", "width": 4}, "width = 4: not divisible by attention_heads = 8"),
        ({"name": "linear", "label": "a b"}, "label"),
        ({"name": "linear", "label": "a" * 41}, "1 to 40"),
        ({"name": "linear", "label": ""}, "1 to 40"),
        ({"name": "linear", "label": "mlp"}, "the name of another head"),
    ],
)
def test_bad_heads_are_refused(values, words):
    with pytest.raises(UserError) as caught:
        parse(FeaturesConfig, {"heads": [values]}, "features")
    assert words in str(caught.value)


def test_two_heads_that_rows_could_not_tell_apart_are_refused():
    refuse_twins([MLP(), MLP(label="wide", hidden=[64]), Linear()], "features.heads")
    with pytest.raises(UserError, match=r"features\.heads: 'mlp' is given twice; give each a label"):
        refuse_twins([MLP(), MLP(hidden=[64])], "features.heads")
    with pytest.raises(UserError, match="'wide' is given twice"):
        refuse_twins([MLP(label="wide"), Linear(label="wide")], "features.heads")
