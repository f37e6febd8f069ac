"""What labels mean: numbers, names, or none; other names; some of the classes."""

import numpy as np
import pytest
from images import png

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.index import build
from harness.data.labels import labels_of
from harness.data.source import Record, Source

CONTENT = png(0)


def labels(given, names=None, **settings):
    records = [Record(CONTENT, label, None, f"image {n}") for n, label in enumerate(given)]
    source, config = Source.of(records, names), DataConfig(**settings)
    return labels_of(build(source, config), np.arange(len(given)), source, config)


def test_numbers_without_names_are_classes_up_to_the_largest():
    found = labels([2, 0, None, 2])
    assert found.classes == ["0", "1", "2"]
    assert found.numbers.tolist() == [2, 0, -1, 2]
    assert found.kept.all()


def test_names_are_sorted():
    found = labels(["owl", "cat", None, "owl"])
    assert found.classes == ["cat", "owl"]
    assert found.numbers.tolist() == [1, 0, -1, 1]


def test_the_sources_names_are_kept_in_their_order():
    assert labels([1, 0], ["owl", "cat"]).classes == ["owl", "cat"]
    found = labels(["cat", None, "owl"], ["owl", "cat", "dog"])
    assert found.classes == ["owl", "cat", "dog"]
    assert found.numbers.tolist() == [1, -1, 0]


def test_no_labels_are_no_classes():
    found = labels([None, None])
    assert found.classes == []
    assert found.numbers.tolist() == [-1, -1]


def test_rows_that_are_left_out_have_no_say():
    records = [Record(CONTENT, label, None, str(label)) for label in ("cat", "owl", 7)]
    source = Source.of(records, None)
    config = DataConfig()
    assert labels_of(build(source, config), np.array([1, 0]), source, config).numbers.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ([0, 2], ["cat", "dog"], "image 1: label 2 is not a class: there are 2, numbered from 0"),
        (["cat", "cow"], ["cat", "dog"], "image 1: label 'cow' is not a class"),
        (["cat", 3], None, "image 1: label 3 is a number, but other labels are names"),
        ([0, 10**6], None, "class number 1000000, but only 2 images; number classes from 0"),
    ],
)
def test_labels_that_are_no_class_are_refused(given, names, words):
    with pytest.raises(UserError) as caught:
        labels(given, names)
    assert words in str(caught.value)


def test_a_class_number_may_exceed_the_number_of_images_a_little():
    assert len(labels([0, 999]).classes) == 1000


def test_classes_get_other_names():
    found = labels([1, 0, 1], class_names={"1": "one"})
    assert found.classes == ["0", "one"]
    assert found.numbers.tolist() == [1, 0, 1]


def test_chosen_classes_have_their_other_names_and_unlabelled_images_are_left_out():
    found = labels(["a", "b", None, "c"], class_names={"c": "sea"}, classes=["sea", "a"])
    assert found.classes == ["sea", "a"]
    assert found.kept.tolist() == [True, False, False, True]
    assert found.numbers[found.kept].tolist() == [1, 0]
    assert found.notes == ["left out 1 images without a label, since data.classes chooses by label"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_names": {"dgo": "Dog"}}, "data.class_names: no class 'dgo'; did you mean 'dog'?"),
        ({"class_names": {"dog": "cat"}}, "'cat' is given twice"),
        ({"classes": ["dgo"]}, "data.classes: no class 'dgo'; did you mean 'dog'?"),
        ({"classes": ["dog", "dog"]}, "'dog' is given twice"),
    ],
)
def test_names_that_are_not_there_or_twice_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        labels(["cat", "dog"], **settings)
    assert words in str(caught.value)
