"""The published numbers of study 2: read as they are, found for what was measured."""

import pytest

from harness.report.published.parameter_diffusion import (
    beside,
    is_ablated,
    published,
    same_data,
    same_location,
    same_network,
)


def test_every_row_is_whole() -> None:
    frame = published()
    assert frame.notna().all(axis=None)
    assert len(frame[frame["figure"] == "main"]) == 8 * 6 * 3
    assert frame[frame["metric"] == "top1"]["value"].between(30, 100).all()
    assert frame[frame["metric"].str.contains("iou")]["value"].between(0, 1).all()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cifar10", "cifar10"),
        ("CIFAR-10", "cifar10"),
        ("CIFAR-100", "cifar100"),
        ("uoft-cs/cifar100", "cifar100"),
        ("cifar100 d41d8c", "cifar100"),
        ("imagenet", "imagenet-1k"),
        ("oxford_flowers102", "flowers102"),
        ("fashion-mnist", None),
        ("tiny-imagenet", None),
        ("digits", None),
        (None, None),
    ],
)
def test_data_are_found_by_their_names(name: str | None, found: str | None) -> None:
    assert same_data(name) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet18", "resnet18"),
        ("ResNet-50", "resnet50"),
        ("microsoft/resnet-18", "resnet18"),
        ("vit-tiny", "vit-tiny"),
        ("WinKawaks/vit-tiny-patch16-224", "vit-tiny"),
        ("ViT-B", "vit-base"),
        ("facebook/convnext-base-224", "convnext-base"),
        ("ConvNeXt-T", "convnext-tiny"),
        ("resnet181", None),
        ("convnet", None),
        ("mlp", None),
    ],
)
def test_networks_are_found_by_their_names(name: str, found: str | None) -> None:
    assert same_network(name) == found


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("bn-16-18", "layer4.1"),
        ("layer4.1.bn1 layer4.1.bn2", "layer4.1"),
        ("layer4.1.bn1, layer4.0.bn2", None),
        ("layer3", "layer3"),
        ("conv1", "conv1"),
        ("conv10", None),
        ("all", None),
    ],
)
def test_locations_are_found_by_their_patterns(patterns: str, found: str | None) -> None:
    assert same_location(patterns) == found


def test_both_editions_stand_beside_their_own_setting() -> None:
    first, third = beside("CIFAR-100", "resnet-18")
    assert (first.edition, first.original, first.ensemble, first.generated) == ("2024-02", 76.7, 76.7, 76.9)
    assert (first.original_mean, first.generated_mean, first.generated_median) == (76.6, 72.4, 75.6)
    assert (third.edition, third.original, third.ensemble, third.generated) == ("2024-12", 77.4, None, 77.9)
    (other,) = beside("cifar10", "vit-tiny")
    assert (other.original, other.generated, other.generated_mean) == (96.8, 96.8, None)
    assert beside("digits", "resnet18") == beside("cifar10", "convnet") == []
    assert is_ablated("cifar100", "ResNet18")
    assert not is_ablated("cifar10", "ResNet18")
