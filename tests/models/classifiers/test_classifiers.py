"""The original networks, built: names, sizes, and what they compute, against transformers used by hand."""

import copy
import json
from math import prod

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.classifiers.build import build
from harness.models.classifiers.networks import (
    MLP,
    NETWORKS,
    ConvNet,
    ConvNeXt,
    Network,
    PretrainedNetwork,
    ResNet,
    ResNet18,
    ViT,
    ViTTiny,
)
from harness.models.encoders.vision import quiet
from harness.weights.layout import layout_of

SIGHT = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
TINY = {
    "convnet": ConvNet(channels=[4, 8], groups=2),
    "mlp": MLP(),
    "resnet": ResNet(widths=[4, 8], depths=[1, 2]),
    "resnet, bottlenecks": ResNet(widths=[4, 8], depths=[1, 1], bottleneck=True),
    "resnet, large stem": ResNet(widths=[4, 8], depths=[1, 1], stem="large"),
    "vit": ViT(width=8, depth=2, heads=2),
    "convnext": ConvNeXt(widths=[4, 8], depths=[1, 1]),
}
CHECKPOINTS = {
    "resnet": lambda classes: tf.ResNetForImageClassification(
        tf.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=classes
        )
    ),
    "vit": lambda classes: tf.ViTForImageClassification(
        tf.ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=4,
            num_labels=classes,
        )
    ),
    "convnext": lambda classes: tf.ConvNextForImageClassification(
        tf.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=classes)
    ),
    "dinov2": lambda classes: tf.Dinov2ForImageClassification(
        tf.Dinov2Config(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            num_labels=classes,
        )
    ),
}
IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(autouse=True)
def _no_bars():
    with quiet():
        yield


def saved(folder, name, classes=5):
    """Writes a checkpoint into `folder` and returns the network."""
    torch.manual_seed(0)
    network = CHECKPOINTS[name](classes).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SIGHT))
    return network


def built(network: Network, channels=3, size=16, classes=5):
    torch.manual_seed(1)
    return build(network.settings(channels, size, classes)).eval()


def opened(network, context, channels=3, size=16, classes=5):
    """Returns the network with the weights of its start."""
    module = build(network.settings(channels, size, classes)).eval()
    stage = network.start(channels, size, classes)
    module.load_state_dict(load_file(context.file(stage, "network.safetensors")))
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "channels", "size", "classes"),
    [
        *((name, 3, 64, 7) for name in NETWORKS.names() if name != "pretrained"),
        *((name, 1, 8, 10) for name in ("convnet", "mlp", "resnet", "vit", "convnext")),
    ],
)
def test_an_outline_is_what_is_built(name, channels, size, classes):
    network = NETWORKS.load(name)()
    settings = network.settings(channels, size, classes)
    assert json.loads(json.dumps(settings)) == settings
    outline = network.outline(channels, size, classes)
    with torch.device("meta"):
        module = build(settings)
    assert list(outline.parameters.items()) == [(key, tuple(p.shape)) for key, p in module.named_parameters()]
    buffers = [(key, tuple(b.shape)) for key, b in module.named_buffers() if b.is_floating_point()]
    assert list(outline.buffers.items()) == buffers
    with torch.device("meta"):
        assert module(torch.zeros(2, channels, size, size)).shape == (2, classes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters"),
    [
        ("resnet18", 32, 10, 11_173_962),  # He et al. with the stem of CIFAR
        ("resnet18", 224, 1000, 11_689_512),  # the others as torchvision and timm state them
        ("resnet50", 224, 1000, 25_557_032),
        ("vit-tiny", 224, 1000, 5_717_416),
        ("vit-base", 224, 1000, 86_567_656),
        ("convnext-tiny", 224, 1000, 28_589_128),
        ("convnext-base", 224, 1000, 88_591_464),
    ],
)
def test_networks_have_as_many_parameters_as_published(name, size, classes, parameters):
    outline = NETWORKS.load(name)().outline(3, size, classes)
    assert sum(map(prod, outline.parameters.values())) == parameters


def test_resnet_18_with_the_small_stem_costs_what_it_is_known_to_cost():
    with torch.device("meta"):
        network = build(ResNet18().settings(3, 32, 10))
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(2, 3, 32, 32))
    assert counter.get_total_flops() / 2 / 2 == pytest.approx(555.4e6, rel=1e-3)  # multiply-adds an image


@pytest.mark.parametrize("name", TINY)
def test_a_network_depends_on_every_parameter_and_treats_each_image_by_itself(name):
    network = built(TINY[name])
    logits = network(IMAGES)
    assert logits.shape == (4, 5)
    assert torch.equal(network(IMAGES), logits)
    for one, image in zip(logits, IMAGES, strict=True):
        torch.testing.assert_close(one, network(image[None])[0])
    (logits * torch.randn(4, 5)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize("name", TINY)
def test_a_network_can_be_copied_and_run_with_other_parameters(name):
    network = built(TINY[name])
    expected = network(IMAGES).detach()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for value in changed.parameters():
            value.mul_(0.9)
    assert torch.equal(network(IMAGES), expected)
    assert not torch.allclose(changed(IMAGES), expected, atol=1e-4)
    values = dict(changed.named_parameters())
    torch.testing.assert_close(functional_call(network, values, IMAGES), changed(IMAGES))
    stacked = {
        key: torch.stack([value.detach(), values[key].detach()]) for key, value in network.named_parameters()
    }
    with torch.no_grad():
        both = vmap(lambda one: functional_call(network, one, IMAGES))(stacked)
    torch.testing.assert_close(both, torch.stack([expected, changed(IMAGES).detach()]), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_network_can_be_exported(name):
    network = built(TINY[name])
    exported = torch.export.export(network, (IMAGES,)).module()
    torch.testing.assert_close(exported(IMAGES), network(IMAGES))
    assert {key for key, _ in network.named_parameters()} <= set(exported.state_dict())


def test_training_mode_reaches_the_whole_network():
    network = built(TINY["resnet"])
    before = network.state_dict()["resnet.embedder.embedder.normalization.running_mean"].clone()
    assert not any(module.training for module in network.modules())
    network.train()
    assert all(module.training for module in network.modules())
    network(IMAGES)
    after = network.state_dict()["resnet.embedder.embedder.normalization.running_mean"]
    assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet, large stem", "resnet"), ("vit", "vit"), ("convnext", "convnext")]
)
def test_networks_from_scratch_are_those_of_transformers(name, kind):
    network, theirs = built(TINY[name].model_copy(update={"patch": 4})), CHECKPOINTS[kind](5).eval()
    theirs.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(IMAGES), theirs(pixel_values=IMAGES).logits)


def test_images_are_standardised_where_the_network_says_so():
    sight = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    network, plain = built(TINY["resnet"].model_copy(update=sight)), built(TINY["resnet"])
    plain.load_state_dict(network.state_dict())
    mean, deviation = (torch.tensor(values)[:, None, None] for values in sight.values())
    torch.testing.assert_close(network(IMAGES), plain(((IMAGES + 1) / 2 - mean) / deviation))
    assert list(network.state_dict()) == list(plain.state_dict())
    with pytest.raises(
        UserError, match=r"image_mean = \[0\.5\]: expected one number per channel of the images, 3"
    ):
        ResNet(image_mean=[0.5], image_std=[0.5]).outline(3, 16, 5)
    with pytest.raises(UserError, match="give image_mean and image_std, or neither"):
        parse(ResNet, {"image_mean": [0.5]}, "network")


def test_the_small_stem_keeps_the_size_of_the_map():
    network = built(TINY["resnet"])
    seen = []
    network.get_submodule("resnet.encoder.stages.0").register_forward_hook(
        lambda *given: seen.append(given[1][0])
    )
    network(IMAGES)
    assert seen[0].shape == (4, 4, 16, 16)


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_pretrained_network_is_the_checkpoint_with_its_preprocessing(kind, tmp_path, context):
    theirs = saved(tmp_path, kind)
    network = PretrainedNetwork(path=str(tmp_path))
    settings = network.settings(3, 16, 5)
    assert json.loads(json.dumps(settings)) == settings
    assert str(tmp_path) not in json.dumps(settings), "a place is no content"
    found = opened(network, context)
    mean, deviation = (torch.tensor(SIGHT[key])[:, None, None] for key in ("image_mean", "image_std"))
    prepared = ((IMAGES + 1) / 2 - mean) / deviation
    torch.testing.assert_close(found(IMAGES), theirs(pixel_values=prepared).logits, atol=1e-5, rtol=1e-4)
    assert list(found.state_dict()) == list(theirs.state_dict())
    outline = network.outline(3, 16, 5)
    assert outline.parameters == {key: tuple(value.shape) for key, value in theirs.named_parameters()}
    assert network.display_name == tmp_path.name
    norms = layout_of(outline, ["norm"], network.locations())
    parts = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    assert norms.length == sum(
        2 * len(part.weight) for part in theirs.modules() if isinstance(part, parts)
    ), "every norm of every kind has a weight and a bias"
    head = layout_of(outline, ["fc"], network.locations())
    assert head.names == tuple(list(outline.parameters)[-2:])


def test_networks_by_name_take_checkpoints_of_their_own_kind(tmp_path, context):
    theirs = saved(tmp_path, "vit")
    network = ViT(width=8, depth=2, heads=2, path=str(tmp_path))
    state = opened(network, context).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())
    with pytest.raises(UserError, match=r"weights\.network\.path .*this vit is not a vit-tiny"):
        ViTTiny(path=str(tmp_path)).settings(3, 16, 5)


def test_other_classes_get_a_head_of_their_own_drawn_from_a_fixed_seed(tmp_path, context):
    theirs = saved(tmp_path, "resnet", classes=7).state_dict()
    network = PretrainedNetwork(path=str(tmp_path))
    torch.manual_seed(3)
    state = opened(network, context).state_dict()
    head = {"classifier.1.weight", "classifier.1.bias"}
    assert state["classifier.1.weight"].shape == (5, 8)
    assert all(torch.equal(value, theirs[key]) for key, value in state.items() if key not in head)
    stage = network.start(3, 16, 5)
    context.store.discard(stage.kind, stage.key)
    torch.manual_seed(4)
    again = opened(network, context).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_a_checkpoint_without_a_head_gets_one(tmp_path, context):
    theirs = saved(tmp_path, "vit")
    theirs.vit.save_pretrained(tmp_path)
    state = opened(PretrainedNetwork(path=str(tmp_path)), context).state_dict()
    assert state["classifier.weight"].any()
    assert torch.equal(state["vit.layernorm.weight"], theirs.vit.layernorm.weight)


def test_a_single_channel_is_repeated_for_a_pretrained_network(tmp_path, context):
    saved(tmp_path, "convnext")
    network = opened(PretrainedNetwork(path=str(tmp_path)), context, channels=1)
    gray = IMAGES[:, :1]
    torch.testing.assert_close(network(gray), network(gray.expand(-1, 3, -1, -1)))


def test_a_start_is_named_by_its_content(tmp_path):
    saved(tmp_path / "one", "resnet")
    saved(tmp_path / "two", "resnet")
    one, two = (PretrainedNetwork(path=str(tmp_path / name)).start(3, 16, 5) for name in ("one", "two"))
    assert one.local
    assert one.key == two.key
    assert one.key != PretrainedNetwork(path=str(tmp_path / "one")).start(3, 16, 6).key
    other = CHECKPOINTS["resnet"](5)
    with torch.no_grad():
        other.classifier[1].bias.add_(1)
    other.save_pretrained(tmp_path / "two")
    assert PretrainedNetwork(path=str(tmp_path / "two")).start(3, 16, 5).key != one.key
    assert ResNet18().start(3, 32, 10) is None


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError,
        match=r"weights\.network\.path .*nowhere.*no such folder; give one that save_pretrained wrote",
    ):
        parse(PretrainedNetwork, {"path": str(tmp_path / "nowhere")}, "network").settings(3, 16, 5)
    saved(tmp_path, "vit")
    network = PretrainedNetwork(path=str(tmp_path))
    with pytest.raises(UserError, match=r"cannot pass through pretrained .*; set data\.size to 16"):
        network.outline(3, 32, 5)
    with pytest.raises(UserError, match="reads images of 3 channels, the data has 4"):
        network.outline(4, 16, 5)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.network\.path .*has no weights"):
        network.start(3, 16, 5)
    tf.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no image classifier of the type bert"):
        network.settings(3, 16, 5)


def test_weights_that_lack_a_tensor_are_refused(tmp_path, context):
    saved(tmp_path, "vit")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"the weights lack 'vit\.layers\.2"):
        opened(PretrainedNetwork(path=str(tmp_path)), context)
