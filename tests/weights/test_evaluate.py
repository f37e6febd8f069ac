"""Many networks at once predict what each predicts alone."""

import numpy as np
import pytest
import torch

from harness.core.errors import UserError
from harness.models.classifiers.convnet import ConvNet
from harness.models.classifiers.networks import Outline
from harness.weights import evaluate
from harness.weights.evaluate import Evaluator
from harness.weights.layout import Layout, layout_of
from harness.weights.vectors import flatten, unflatten

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (45, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def predict_all(base, chosen, vectors, images, device, **bounds):
    size = min(evaluate.IMAGES_AT_ONCE, len(images))
    return Evaluator(base, chosen, images[0], device, images=size, **bounds)(vectors, images)


def network(seed=0, classes=10):
    torch.manual_seed(seed)
    return ConvNet(1, [8, 8], classes, 2)


def layout(patterns):
    shapes = {name: tuple(p.shape) for name, p in network().named_parameters()}
    return layout_of(Outline(shapes, {}), patterns, {})


def one_by_one(base, chosen, vectors):
    """Loads every network by itself and runs it."""
    rows = []
    for vector in vectors:
        model = network()
        model.load_state_dict(
            {**base.state_dict(), **{k: v[0] for k, v in unflatten(vector[None], chosen).items()}}
        )
        with torch.no_grad():
            rows.append(model.eval()(IMAGES.float() / 127.5 - 1).argmax(1).numpy())
    return np.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patterns", "count"),
    [(["norm"], 1), (["conv1"], 3)]
    + [
        (patterns, 20) for patterns in (["norm2"], ["norm"], ["conv1"], ["conv2", "fc.bias"], ["fc"], ["all"])
    ],
)
def test_predictions_are_those_of_networks_loaded_one_by_one(monkeypatch, patterns, count):
    monkeypatch.setattr(evaluate, "NETWORKS_AT_ONCE", 8)
    monkeypatch.setattr(evaluate, "IMAGES_AT_ONCE", 20)
    base, chosen = network(1), layout(patterns)
    start = flatten(base.state_dict(), chosen)
    vectors = start + torch.randn(count, len(start), generator=torch.Generator().manual_seed(2))
    found = predict_all(base, chosen, vectors, IMAGES, CPU)
    assert found.shape == (count, len(IMAGES))
    assert found.dtype == np.uint8
    expected = one_by_one(base, chosen, vectors)
    np.testing.assert_array_equal(found, expected)
    assert count < 20 or len({row.tobytes() for row in expected}) > 1


def test_the_networks_own_parameters_are_left_as_they_were():
    base, chosen = network(1), layout(["norm"])
    before = {name: value.clone() for name, value in base.state_dict().items()}
    predict_all(base, chosen, torch.randn(3, chosen.length), IMAGES, CPU)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_network_that_is_not_finite_spoils_none_beside_it(bad):
    base, chosen = network(1), layout(["norm2"])
    vectors = flatten(base.state_dict(), chosen) + torch.randn(3, chosen.length)
    whole = predict_all(base, chosen, vectors, IMAGES, CPU)
    spoilt = vectors.clone()
    spoilt[1] = bad
    found = predict_all(base, chosen, spoilt, IMAGES, CPU)
    np.testing.assert_array_equal(found[[0, 2]], whole[[0, 2]])
    assert len(set(found[1])) == 1, "it says the same of every image"


def test_more_classes_than_a_byte_counts_are_told_apart():
    base = network(0, classes=400)
    base.fc.bias.data[333] = 1e3
    found = predict_all(base, Layout(("norm2.bias",), ((8,),)), torch.zeros(2, 8), IMAGES, CPU)
    np.testing.assert_array_equal(found, 333)


@pytest.mark.slow
def test_memory_bounds_how_many_images_go_through_at_once(monkeypatch):
    base, chosen = network(1), layout(["norm2"])
    vectors = flatten(base.state_dict(), chosen) + torch.randn(20, chosen.length)
    whole = predict_all(base, chosen, vectors, IMAGES, CPU)
    batches = []
    prefix = evaluate.Split.prefix

    def watched(split, x_BCHW):
        batches.append(len(x_BCHW))
        return prefix(split, x_BCHW)

    monkeypatch.setattr(evaluate.Split, "prefix", watched)
    before, after = evaluate.Split(base, chosen.names, torch.zeros(2, 1, 8, 8)).bytes_an_image()
    room = 7.5 * (before + evaluate.NETWORKS_AT_ONCE * after) / 2**30
    found = predict_all(base, chosen, vectors, IMAGES, CPU, memory_gb=room)
    np.testing.assert_array_equal(found, whole)
    assert batches == [7] * 7  # 45 images, the last batch filled up
    with pytest.raises(UserError, match=r"memory_gb"):
        predict_all(base, chosen, vectors, IMAGES, CPU, memory_gb=room / 10)


def test_the_share_of_the_cost_before_the_first_varied_parameter():
    settings = {"name": "convnet", "channels": 1, "widths": [8, 8], "groups": 2, "size": 8, "classes": 10}
    convolutions = 64 * 9 * 8, 16 * 9 * 8 * 8
    total = sum(convolutions) + 80
    for patterns, before in ((["conv1"], 0), (["norm1"], convolutions[0]), (["norm2"], sum(convolutions))):
        share, found = evaluate.share_before(settings, layout(patterns).names)
        assert found == total
        assert share == pytest.approx(before / total)
