"""Data sets: splits that are fixed by the seed, a fingerprint that names the content."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from harness.core.config import parse
from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import SPLITS, Dataset, dataset_stage, load, open_dataset, split
from harness.data.source import Record

DIGITS = load(DataConfig(), 0)


def test_digits_are_scikit_learns():
    known = load_digits()
    assert DIGITS.images.shape == (1797, 1, 8, 8)
    assert DIGITS.images.dtype == np.uint8
    np.testing.assert_allclose(DIGITS.images[:, 0] / 255 * 16, known.images, atol=0.04)
    np.testing.assert_array_equal(DIGITS.labels, known.target)
    assert DIGITS.classes == tuple("0123456789")


def test_digits_are_split_in_the_configured_shares():
    sizes = {name: len(DIGITS.splits[name]) for name in SPLITS}
    assert sizes == {"train": 899, "validation": 359, "test": 539}


def test_every_image_is_in_one_split():
    together = np.concatenate([DIGITS.splits[name] for name in SPLITS])
    np.testing.assert_array_equal(np.sort(together), np.arange(1797))


def test_splits_follow_from_the_seed():
    same, other = load(DataConfig(), 0), load(DataConfig(), 1)
    for name in SPLITS:
        np.testing.assert_array_equal(same.splits[name], DIGITS.splits[name])
        assert len(other.splits[name]) == len(DIGITS.splits[name])
        assert set(other.splits[name]) != set(DIGITS.splits[name])
    assert same.fingerprint == DIGITS.fingerprint != other.fingerprint


def test_fewer_training_images_leave_validation_and_test_as_they_are():
    fewer = load(DataConfig(max_train=50), 0)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(fewer.images[fewer.splits[name]], DIGITS.images[DIGITS.splits[name]])
    assert len(fewer.splits["train"]) == 50
    assert len(fewer.images) == 50 + 359 + 539


CONFIGS = st.builds(
    DataConfig,
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    max_train=st.none() | st.integers(1, 50),
    max_validation=st.none() | st.integers(1, 50),
    max_test=st.none() | st.integers(1, 50),
)


@given(
    CONFIGS,
    st.lists(st.sampled_from(["train", "validation", "test"]), min_size=40, max_size=80),
    st.integers(0, 9),
)
def test_splits_are_disjoint_within_limits_and_keep_what_the_source_says(config, named, seed):
    records = [Record(b"", 0, name, "") for name in named]
    found = split(records, config, seed)
    together = np.concatenate(list(found.values()))
    assert len(set(together)) == len(together)
    for name, limit in (
        ("train", config.max_train),
        ("validation", config.max_validation),
        ("test", config.max_test),
    ):
        assert 1 <= len(found[name]) <= (limit or len(named))
        if name in named:
            assert {named[place] for place in found[name]} == {name}
        if name in named and limit is None and set(named) == set(SPLITS):
            assert len(found[name]) == named.count(name)


def test_a_missing_validation_split_is_drawn_from_training_images_never_from_test():
    named = ["train"] * 80 + ["test"] * 20
    found = split([Record(b"", 0, name, "") for name in named], DataConfig(validation=0.1), 0)
    assert {name: len(chosen) for name, chosen in found.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }
    assert set(found["test"]) == set(range(80, 100))


def test_a_source_without_splits_gets_all_three():
    found = split([Record(b"", 0, None, "")] * 100, DataConfig(validation=0.2, test=0.3), 0)
    assert {name: len(chosen) for name, chosen in found.items()} == {
        "train": 50,
        "validation": 20,
        "test": 30,
    }


def test_too_few_images_for_a_split_are_refused():
    with pytest.raises(UserError, match="no images left for validation: it has 2 images"):
        split([Record(b"", 0, None, "")] * 2, DataConfig(), 0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UserError, match="no images left for train"):
        split([Record(b"", 0, None, "")] * 100, DataConfig(validation=0.5, test=0.5), 0)


def small(**changed):
    draw = np.random.default_rng(0)
    values = {
        "images": draw.integers(0, 256, (6, 1, 4, 4), np.uint8),
        "labels": np.array([0, 1, 0, 1, 0, 1]),
        "classes": ("a", "b"),
        "splits": {"train": np.array([0, 1, 2, 3]), "validation": np.array([4]), "test": np.array([5])},
    }
    return Dataset(**{**values, **changed})


def test_the_fingerprint_names_pixels_labels_classes_and_splits():
    pixel = small().images.copy()
    pixel[3, 0, 1, 1] ^= 1
    changes = [
        {},
        {"images": pixel},
        {"images": small().images.reshape(6, 1, 2, 8)},
        {"labels": np.array([0, 1, 0, 1, 1, 1])},
        {"classes": ("a", "c")},
        {"splits": {**small().splits, "train": np.array([1, 0, 2, 3])}},
        {"splits": {**small().splits, "validation": np.array([5]), "test": np.array([4])}},
        {"splits": {"train": np.array([0, 1, 2]), "validation": np.array([3, 4]), "test": np.array([5])}},
    ]
    assert len({small(**change).fingerprint for change in changes}) == len(changes)
    assert small().fingerprint == small().fingerprint


@pytest.mark.parametrize("per_class", [1, 5, 20])
def test_labelled_images_are_as_many_of_each_class_from_training_alone(per_class):
    chosen = DIGITS.labelled(per_class)
    np.testing.assert_array_equal(np.bincount(DIGITS.labels[chosen]), [per_class] * 10)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(DIGITS.splits["train"])


def test_more_labels_a_class_include_the_fewer():
    assert set(DIGITS.labelled(5)) < set(DIGITS.labelled(10)) < set(DIGITS.labelled(None))
    np.testing.assert_array_equal(DIGITS.labelled(None), DIGITS.splits["train"])


def test_more_labels_than_a_class_has_are_refused_naming_the_class():
    with pytest.raises(UserError, match=r"data\.labels_per_class = 3: class 'a' has 2 training images"):
        small().labelled(3)


def test_probes_look_at_labelled_then_validation_then_test():
    expected = [*DIGITS.labelled(3), *DIGITS.splits["validation"], *DIGITS.splits["test"]]
    np.testing.assert_array_equal(DIGITS.probed(3), expected)


def test_the_artifact_gives_back_the_data_set(context):
    stage = dataset_stage(DataConfig(), 0, DIGITS.fingerprint)
    found = open_dataset(stage, context)
    assert found.fingerprint == DIGITS.fingerprint
    assert found.classes == DIGITS.classes
    assert found.images.dtype == np.uint8


def test_images_that_changed_since_the_plan_are_refused(context):
    with pytest.raises(UserError, match="the images have changed since the sweep was planned"):
        context.ensure(dataset_stage(DataConfig(), 1, DIGITS.fingerprint))


def test_the_stage_is_named_by_the_content_alone():
    one = dataset_stage(DataConfig(), 0, "f")
    assert one.key == dataset_stage(DataConfig(max_train=3, path="elsewhere"), 5, "f").key
    assert one.key != dataset_stage(DataConfig(), 0, "g").key


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "digitz"}, r"unknown data set 'digitz'; did you mean 'digits'\?"),
        ({"sizes": 3}, r"unknown key 'sizes'; did you mean 'size'\?"),
        ({"validation": 0.0}, "validation = 0.0"),
        ({"test": 1.0}, "test = 1.0"),
        ({"size": 2}, "size = 2"),
        ({"channels": 4}, "channels = 4"),
        ({"labels_per_class": 0}, "labels_per_class = 0"),
    ],
)
def test_a_bad_section_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        parse(DataConfig, values, "data")


def test_some_classes_are_kept_and_numbered_in_the_order_given():
    whole = load_digits()
    dataset = load(DataConfig(classes=["8", "0", "3"]), 0)
    assert dataset.classes == ("8", "0", "3")
    assert len(dataset.labels) == sum(np.sum(whole.target == digit) for digit in (8, 0, 3))
    by_digit = {digit: whole.images[whole.target == digit] for digit in (8, 0, 3)}
    for number, digit in enumerate((8, 0, 3)):
        images = dataset.images[dataset.labels == number]
        assert len(images) == len(by_digit[digit])
        expected = by_digit[digit].mean() * 255 / 16
        assert images.mean() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("classes", "words"),
    [(["0", "ten"], "no class 'ten'; "), (["1", "2", "1"], "'1' is given twice")],
)
def test_classes_that_are_not_there_or_twice_are_refused(classes, words):
    with pytest.raises(UserError, match=words):
        load(DataConfig(classes=classes), 0)
