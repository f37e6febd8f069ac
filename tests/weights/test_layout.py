"""Which parameters vary: patterns, the paper's names, buffers; and that every layout goes there and back."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.models.classifiers.build import build
from harness.models.classifiers.networks import (
    MLP,
    NETWORKS,
    ConvNet,
    ConvNeXt,
    Outline,
    ResNet,
    ResNet18,
    ViT,
)
from harness.weights.layout import Layout, layout_of, lines
from harness.weights.vectors import flatten, unflatten

SHAPES = st.dictionaries(
    st.text("abcde.", min_size=1, max_size=6),
    st.lists(st.integers(1, 4), max_size=4).map(tuple),
    min_size=1,
    max_size=5,
)
TINY = {
    "convnet": ConvNet(channels=[4, 8], groups=2),
    "mlp": MLP(),
    "resnet": ResNet(widths=[4, 8], depths=[1, 2]),
    "resnet, bottlenecks": ResNet(widths=[4, 8], depths=[1, 1], bottleneck=True),
    "vit": ViT(width=8, depth=2, heads=2),
    "convnext": ConvNeXt(widths=[4, 8], depths=[1, 1]),
}
NETWORK = ConvNet(channels=[8, 8, 8])
OUTLINE = NETWORK.outline(1, 8, 10)
RESNET18 = ResNet18().outline(3, 224, 100)
LAST = "resnet.encoder.stages.3.layers.1.layer."


@cache
def outline(name, size, classes):
    return NETWORKS.load(name)().outline(3, size, classes)


def layout(name, patterns, size=224, classes=100, buffers="base"):
    locations = NETWORKS.load(name)().locations()
    return layout_of(outline(name, size, classes), patterns, locations, buffers)


@given(SHAPES, st.integers(1, 3))
def test_vectors_hold_every_number_of_a_network_and_give_it_back(shapes, count):
    layout = layout_of(Outline(shapes, {}), ["all"], {})
    draw = torch.Generator().manual_seed(0)
    networks = [
        {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} for _ in range(count)
    ]
    vectors = torch.stack([flatten(network, layout) for network in networks])
    assert vectors.shape == (count, layout.length)
    assert layout.length == sum(value.numel() for value in networks[0].values())
    back = unflatten(vectors, layout)
    for number, network in enumerate(networks):
        for name, value in network.items():
            assert torch.equal(back[name][number], value)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("buffers", ["base", "collected"])
def test_every_network_goes_into_a_vector_and_back_bit_for_bit(name, buffers):
    settings = TINY[name].settings(3, 16, 5)
    layout = layout_of(TINY[name].outline(3, 16, 5), ["all"], {}, buffers)
    torch.manual_seed(0)
    trained, other = build(settings), build(settings)
    trained(torch.rand(4, 3, 16, 16))  # moves running statistics
    vector_P = flatten(trained.state_dict(), layout)
    assert vector_P.dtype == torch.float32
    numbers = sum(p.numel() for p in trained.parameters())
    statistics = sum(b.numel() for b in trained.buffers() if b.is_floating_point())
    assert len(vector_P) == numbers + (statistics if buffers == "collected" else 0)
    back = {key: value[0] for key, value in unflatten(vector_P[None], layout).items()}
    other.load_state_dict({**other.state_dict(), **back})
    state = other.state_dict()
    for key, value in trained.state_dict().items():
        if key in layout.names:
            assert torch.equal(state[key], value), key
    images = torch.rand(3, 3, 16, 16)
    if buffers == "collected":
        assert torch.equal(trained.eval()(images), other.eval()(images))


def test_a_layout_is_read_as_it_was_written(tmp_path):
    layout = layout_of(Outline({"b": (2, 3), "a": (), "é.c": (1,)}, {}), ["all"], {})
    layout.save(tmp_path / "layout.json")
    assert Layout.load(tmp_path / "layout.json") == layout


def test_beginnings_choose_parameters_in_the_networks_order():
    layout = layout_of(OUTLINE, ["norm3", "fc.bias", "norm2.weight"], {})
    assert layout.names == ("norm2.weight", "norm3.weight", "norm3.bias", "fc.bias")
    assert layout.sizes == [8, 8, 8, 10]
    assert layout_of(OUTLINE, ["all"], {}).names == tuple(OUTLINE.parameters)


def test_overlapping_patterns_choose_a_parameter_once():
    once = layout_of(OUTLINE, ["norm"], NETWORK.locations()).names
    assert layout_of(OUTLINE, ["norm*", "norm2", "norm2.weight", "norm"], {}).names == once


@given(st.lists(st.sampled_from(["norm1", "conv*", "fc", "all", "norm", "*.bias"]), min_size=1, max_size=4))
def test_several_patterns_choose_what_each_chooses(patterns):
    each = [set(layout_of(OUTLINE, [one], NETWORK.locations()).names) for one in patterns]
    together = layout_of(OUTLINE, patterns, NETWORK.locations()).names
    assert set(together) == set().union(*each)
    assert list(together) == [name for name in OUTLINE.parameters if name in set(together)]


@pytest.mark.parametrize(
    ("network", "pattern", "numbers", "tensors"),
    [  # as the paper counts them
        ("resnet18", "bn-10-14", 2048, 8),
        ("resnet18", "bn-14-16", 2048, 4),
        ("resnet18", "bn-16-18", 2048, 4),
        ("resnet18", "norm-last", 2048, 4),
        ("resnet18", "conv1", 9408, 1),
        ("resnet18", "fc", 51_300, 2),
        ("resnet50", "norm-last", 5120, 4),
        ("vit-tiny", "norm-last", 768, 4),
        ("vit-base", "norm-last", 3072, 4),
        ("convnext-tiny", "norm-last", 3072, 4),
        ("convnext-base", "norm-last", 4096, 4),
    ],
)
def test_the_papers_names_choose_as_many_numbers_as_the_paper_says(network, pattern, numbers, tensors):
    found = layout(network, [pattern])
    assert (found.length, len(found.names)) == (numbers, tensors)


def test_the_papers_norms_of_the_last_block_are_those_of_torchvision():
    by_hand = [f"{LAST}{n}.normalization.{one}" for n in (0, 1) for one in ("weight", "bias")]
    wanted = layout("resnet18", ["bn-16-18"])
    assert list(wanted.names) == by_hand
    for patterns in (
        ["layer4.1.bn*"],
        ["layer4.1.bn1.weight", "layer4.1.bn1.bias", "layer4.1.bn2"],
        [f"{LAST}*normalization*"],
    ):
        assert layout("resnet18", patterns) == wanted
    assert not [name for name in layout("resnet18", ["bn-14-16"]).names if "shortcut" in name]
    assert layout("resnet18", ["layer4.*.bn*"]).length == 4096


@pytest.mark.parametrize("name", ["convnet", "resnet", "resnet50", "vit", "convnext"])
def test_norm_chooses_all_norms_of_every_network(name):
    network = NETWORKS.load(name)()
    with torch.device("meta"):
        module = build(network.settings(3, 64, 10))
    norms = torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.BatchNorm2d
    expected = {
        f"{key}.{one}"
        for key, part in module.named_modules()
        if isinstance(part, norms)
        for one in ("weight", "bias")
    }
    assert set(layout(name, ["norm"], 64, 10).names) == expected


@pytest.mark.parametrize("name", ["convnet", "mlp", "resnet", "resnet18", "resnet50", "vit", "convnext"])
def test_every_name_of_a_part_names_something(name):
    for part in NETWORKS.load(name)().locations():
        assert 0 < layout(name, [part], 64, 10).length < layout(name, ["all"], 64, 10).length


def test_collected_statistics_follow_the_parameters_of_their_module():
    found = layout("resnet18", ["layer4.1.bn2.weight", "layer4.1.conv2", "layer4.1.bn1"], buffers="collected")
    bn1, bn2 = f"{LAST}0.normalization.", f"{LAST}1.normalization."
    assert found.names == (
        *(bn1 + one for one in ("weight", "bias", "running_mean", "running_var")),
        f"{LAST}1.convolution.weight",
        *(bn2 + one for one in ("weight", "running_mean", "running_var")),
    )
    assert layout("vit-tiny", ["norm"], buffers="collected") == layout("vit-tiny", ["norm"])


@pytest.mark.parametrize(
    ("network", "patterns", "words"),
    [
        ("convnet", ["norm9"], "'norm9' names no parameter; did you mean 'norm"),
        ("convnet", ["norm1", "cnv1"], "did you mean 'conv1'"),
        ("convnet", ["all", "zzz*"], "'zzz*' names no parameter; known: all, norm, norm-last, conv1, fc"),
        ("resnet18", ["bn-16-19"], "did you mean 'bn-16-18'"),
        ("resnet18", ["layer4.2.bn1.weight"], "did you mean 'layer4.1.bn1.weight'"),
        ("mlp", ["norm"], "known: all, fc"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused_with_the_nearest(network, patterns, words):
    with pytest.raises(UserError, match=r"weights\.parameters") as caught:
        layout(network, patterns, 64)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_people_are_told_what_varies():
    locations = ResNet18().locations()
    told = lines(RESNET18, layout("resnet18", ["bn-16-18"]), locations)
    assert told[0] == "varied: 2,048 of 11,227,812 parameters, in 4 of 62 tensors"
    assert told[1] == f"  {LAST}0.normalization.weight (layer4.1.bn1.weight) 512"
    assert told[-2] == "buffers: all 9,600 running statistics stay those of the base network"
    assert "bn-10-14" in told[-1]
    told = lines(RESNET18, layout("resnet18", ["bn-16-18"], buffers="collected"), locations)
    assert told[0] == "varied: 2,048 of 11,227,812 parameters, in 4 of 62 tensors"
    assert "2,048 of 9,600 running statistics are in the vector" in told[-2]
    told = lines(OUTLINE, layout_of(OUTLINE, ["fc"], {}), {})
    assert told[1:] == [
        "  fc.weight 10 x 8",
        "  fc.bias 10",
        "buffers: the network has none",
        "named parts: all",
    ]


def test_many_tensors_are_told_in_a_few_lines():
    told = lines(RESNET18, layout("resnet18", ["all"]), {})
    assert len(told) < 20
    assert told[-3].startswith("  classifier.1.bias (fc.bias)")
    named = sum(" (" in line for line in told)
    assert f"  ... {62 - named} more, then" in told
