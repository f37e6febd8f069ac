"""Data sets: splits that are fixed by the seed, a fingerprint that names the content."""

from dataclasses import replace

import numpy as np
import pytest
from images import tree
from layouts import folders
from sklearn.datasets import load_digits

from harness.core.config import parse
from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import SPLITS, Dataset, Images, dataset_stage, load, open_dataset, read

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


def small():
    return Dataset(
        images=np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), np.uint8),
        labels=np.array([0, 1, 0, 1, 0, 1]),
        classes=("a", "b"),
        splits={"train": np.array([0, 1, 2, 3]), "validation": np.array([4]), "test": np.array([5])},
    )


def arrays(**changed):
    """Returns twelve images with labels and splits, as an .npz file holds them."""
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    return {
        "x_train": images[:6],
        "y_train": np.array([0, 1] * 3),
        "x_val": images[6:9],
        "y_val": np.array([0, 1, 0]),
        "x_test": images[9:],
        "y_test": np.array([0, 1, 1]),
        **changed,
    }


def test_the_fingerprint_names_pixels_labels_classes_splits_and_how_they_are_decoded(tmp_path):
    first = arrays()
    pixel = first["x_train"].copy()
    pixel[3, 1, 1] ^= 1
    exchanged = {"x_val": first["x_test"], "x_test": first["x_val"]}
    contents = [
        first,
        arrays(x_train=pixel),
        arrays(x_train=first["x_train"].reshape(6, 4, 16), x_val=first["x_val"].reshape(3, 4, 16)),
        arrays(y_train=np.array([0, 1, 0, 1, 1, 1])),
        arrays(**exchanged),
        arrays(x_train=first["x_train"][:5], y_train=first["y_train"][:5]),
    ]
    settings = [{}, {"size": 4}, {"channels": 3}, {"class_names": {"0": "cat"}}, {"classes": ["1", "0"]}]

    def fingerprint(content, seed=0, **values):
        np.savez(tmp_path / "images.npz", **content)
        config = DataConfig(name="npz", path=str(tmp_path / "images.npz"), **{"size": 8, **values})
        return read(config, seed).dataset.fingerprint

    found = [fingerprint(content) for content in contents]
    found += [fingerprint(first, **values) for values in settings[1:]] + [fingerprint(first, seed=1)]
    assert len(set(found)) == len(contents) + len(settings)
    assert found[0] == fingerprint(first)


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
    images = Images.read(DataConfig(), 0)
    found = open_dataset(images.stage, context)
    assert found.fingerprint == images.dataset.fingerprint == DIGITS.fingerprint
    assert found.classes == DIGITS.classes
    assert found.images.shape == images.dataset.images.shape == (1797, 1, 8, 8)
    np.testing.assert_array_equal(found.images[:], DIGITS.images)
    np.testing.assert_array_equal(found.labels, DIGITS.labels)
    for name in SPLITS:
        np.testing.assert_array_equal(found.splits[name], DIGITS.splits[name])


def test_where_it_is_planned_no_image_is_decoded():
    images = Images.read(DataConfig(), 0).dataset.images
    assert len(images) == 1797
    with pytest.raises(RuntimeError, match="decoded by stages"):
        images[0]


def test_images_that_changed_since_the_plan_are_refused(context):
    stage = Images.read(DataConfig(), 0).stage
    with pytest.raises(UserError, match="the images have changed since the sweep was planned"):
        context.ensure(replace(stage, options={**stage.options, "seed": 1}))


def test_the_stage_is_named_by_the_content_alone():
    reading = read(DataConfig(), 0)
    one = dataset_stage(DataConfig(), 0, reading)
    assert one.key == dataset_stage(DataConfig(max_train=3, path="elsewhere"), 5, reading).key
    assert one.key != dataset_stage(DataConfig(), 1, read(DataConfig(), 1)).key


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


def test_what_was_read_is_one_line(tmp_path):
    folders(tmp_path, {"train": 5, "val": 1})
    tree(tmp_path, [*(f"test/a/{n}.png" for n in range(3)), "test/b/0.png"])
    assert load(DataConfig(name="folder", path=str(tmp_path)), 0).about == [
        "16 images of 6x6 pixels, colour (train 10, validation 2, test 4); "
        "2 classes, 7 to 9 images each; chance level 75.0%, the largest class of the test images"
    ]


def test_images_without_labels_are_counted_apart():
    labels = np.array([0, 1, -1, -1, 0, 1])
    assert replace(small(), labels=labels).about[1:] == [
        "2 training images have no label: they train the diffusion model only"
    ]
    assert replace(small(), labels=np.full(6, -1), classes=()).about[1:] == [
        "no image has a label: a diffusion model can be trained on them, but no classifier"
    ]
