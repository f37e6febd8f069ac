"""The contract suite on every head, and what each of them does. A head that is added needs one line in `CASES`."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from harness.core.config import parse
from harness.core.errors import UserError
from harness.features.config import FeaturesConfig
from harness.features.heads.head import HEADS, Labelled, refuse_same_names
from harness.features.heads.linear import Linear
from harness.features.heads.mlp import MLP
from harness.testing.heads import HeadContract, blobs, maps

QUICK = {"steps": 40, "batch": 32, "learning_rate": 0.015}
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


class TestHeads(HeadContract):
    """Every registered head."""

    @pytest.fixture(
        params=[
            pytest.param(name, marks=pytest.mark.slow if name in ("attention", "difformer") else ())
            for name in HEADS.names()
        ]
    )
    def head(self, request):
        assert request.param in CASES, f"add a line for head {request.param!r} to CASES"
        return parse(FeaturesConfig, {"heads": [CASES[request.param]]}, "features").heads[0]


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
    refuse_same_names([MLP(), MLP(label="wide", hidden=[64]), Linear()], "features.heads")
    with pytest.raises(UserError, match=r"features\.heads: 'mlp' is given twice; give each a label"):
        refuse_same_names([MLP(), MLP(hidden=[64])], "features.heads")
    with pytest.raises(UserError, match="'wide' is given twice"):
        refuse_same_names([MLP(label="wide"), Linear(label="wide")], "features.heads")
