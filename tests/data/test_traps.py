"""Traps in a data set: each is found, and a sound one has none."""

import json

import numpy as np
import pytest

from harness.cli import main
from harness.core.config import parse
from harness.data.config import DataConfig
from harness.data.dataset import Images
from harness.data.traps import traps

CLASSES = ("cat", "dog", "owl")


def digests(count):
    return np.arange(count, dtype=np.uint8)[:, None].repeat(16, 1)


def found(images=None, labels=None, train=60, validation=30, test=30):
    count = train + validation + test
    images = digests(count) if images is None else images
    labels = np.arange(count) % 3 if labels is None else labels
    edges = np.cumsum([train, validation, test])
    places = np.split(np.arange(count), edges[:2])
    return traps(images, labels, CLASSES, dict(zip(("train", "validation", "test"), places, strict=True)))


def test_a_sound_data_set_has_none():
    assert found() == []
    images = Images.read(parse(DataConfig, {"name": "digits"}, "data"), 0)
    assert images.stage.options["warnings"] == []


def test_copies_of_training_images_are_counted():
    images = digests(120)
    images[90:102] = images[:12]
    assert found(images) == [
        "12 of 30 test images are exact copies of training images: test accuracy rewards remembering them"
    ]


def test_classes_without_training_images_are_named():
    labels = np.arange(120) % 3
    labels[:60] = 0
    one, two = found(labels=labels)
    assert (
        one
        == "2 of 3 classes have no training images ('dog', 'owl'): none can be predicted; 2 of them are tested"
    )
    assert two.startswith("all 60 train images are of one class ('cat')")


def test_a_split_of_one_class_is_named():
    labels = np.arange(120) % 3
    labels[60:90] = 1
    assert found(labels=labels) == [
        "all 30 validation images are of one class ('dog'): a constant answer is right"
    ]


@pytest.mark.parametrize(("test", "step"), [(3, 33), (20, 5)])
def test_few_images_are_named(test, step):
    assert found(test=test) == [f"test has {test} images only: its accuracy moves in steps of {step} %"]


def test_the_plan_says_so(tmp_path, capsys):
    settings = ["weights=null", "data.max_test=3", "features.heads=[ridge]"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert main(["plan", "quickstart", "--results", str(tmp_path), *words]) == 0
    assert "before you trust this: digits: test has 3 images only" in capsys.readouterr().out
    assert main(["plan", "quickstart", "--results", str(tmp_path), "--json", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 1
