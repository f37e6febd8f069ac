"""Images in tables: which files, which columns, which labels."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import config, parquet, pixels, png, records, refused

from harness.data.config import DataConfig
from harness.data.dataset import load
from harness.testing.datasets import decoded


@pytest.fixture
def hub_layout(tmp_path):
    """Train in two shards, test in one, in the Hub's layout, with class names."""
    for shard in range(2):
        numbers = range(10 * shard, 10 * shard + 10)
        path = tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"
        parquet(
            path,
            [png(number) for number in numbers],
            [number % 2 for number in numbers],
            names=["cat", "dog"],
        )
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [png(n) for n in range(20, 25)], [0] * 5)
    return tmp_path


def test_the_hubs_layout_is_read_with_its_splits_and_class_names(hub_layout):
    dataset = load(config(hub_layout), 0)
    assert dataset.classes == ("cat", "dog")
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 15,
        "validation": 5,
        "test": 5,
    }
    assert dataset.images.shape == (25, 3, 6, 6)


def test_pixels_and_labels_arrive_unchanged_and_together(hub_layout):
    dataset = load(config(hub_layout), 0)
    by_pixels = {
        image.tobytes(): int(label) for image, label in zip(dataset.images, dataset.labels, strict=True)
    }
    for number in range(25):
        expected = number % 2 if number < 20 else 0
        assert by_pixels[pixels(number).transpose(2, 0, 1).tobytes()] == expected
    held_out = {dataset.images[place].tobytes() for place in dataset.splits["test"]}
    assert held_out == {pixels(number).transpose(2, 0, 1).tobytes() for number in range(20, 25)}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train-00000-of-00001", "train"),
        ("validation", "validation"),
        ("val-0", "validation"),
        ("dev", "validation"),
        ("test-00000", "test"),
        ("0000", None),
    ],
)
def test_a_files_name_tells_its_split(tmp_path, name, split):
    parquet(tmp_path / f"{name}.parquet", [png(0)], [0])
    assert records(tmp_path)[0].split == split


def test_a_single_file_is_split_here(tmp_path):
    path = parquet(tmp_path / "all.parquet", [png(number) for number in range(10)], [0, 1] * 5)
    dataset = load(config(path), 0)
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
    }
    assert dataset.classes == ("0", "1")


def test_images_may_be_plain_bytes_and_columns_have_other_names(tmp_path):
    pq.write_table(pa.table({"picture": [png(0), png(1)], "Category": [0, 2]}), tmp_path / "train.parquet")
    found = records(tmp_path)
    assert [record.label for record in found] == [0, 2]
    np.testing.assert_array_equal(decoded(found, DataConfig())[1], pixels(1).transpose(2, 0, 1))


def test_asked_for_columns_are_taken(tmp_path):
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = [pa.array([{"bytes": png(number), "path": None}], struct) for number in range(2)]
    table = pa.table({"first": pictures[0], "second": pictures[1], "label": [0], "coarse": [7]})
    pq.write_table(table, tmp_path / "train.parquet")
    (found,) = records(tmp_path, image_column="second", label_column="coarse")
    assert (found.image, found.label) == (png(1), 7)


def test_columns_that_are_not_there_are_answered_with_the_nearest(tmp_path):
    parquet(tmp_path / "train.parquet", [png(0)], [0])
    refused("no column 'imag'; did you mean 'image'? known: image, label", tmp_path, image_column="imag")
    refused("no column 'lable'; did you mean 'label'?", tmp_path, label_column="lable")


def test_columns_that_cannot_be_found_are_asked_for(tmp_path):
    pq.write_table(pa.table({"text": ["x"], "label": [0]}), tmp_path / "train.parquet")
    refused("no image column found; set data.image_column", tmp_path)


def test_an_image_column_of_the_wrong_kind_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [png(0)], "label": ["cat"]}), tmp_path / "train.parquet")
    refused("column 'label' holds string, not images", tmp_path, image_column="label", label_column="image")


def test_a_file_that_lacks_the_others_columns_is_named(tmp_path):
    parquet(tmp_path / "test.parquet", [png(0)], [0])
    parquet(tmp_path / "train.parquet", [png(0)], [0], label="labels")
    refused("test.parquet: no column 'labels'; did you mean 'label'?", tmp_path)


def test_files_that_number_their_classes_differently_are_refused(tmp_path):
    parquet(tmp_path / "test.parquet", [png(0)], [0], names=["dog", "cat"])
    parquet(tmp_path / "train.parquet", [png(1)], [0], names=["cat", "dog"])
    refused("test.parquet: its metadata name the classes dog, cat, those of another file cat, dog", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ([png(0), b"no image"], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), png(1)[:60]], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), b""], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), None], [0, 0], "train.parquet, row 1: the image cannot be read: it is null"),
        ([png(0), {"bytes": None, "path": "x.png"}], [0, 0], "row 1: the image cannot be read: "),
        ([png(0), png(1)], [0, 2], "train.parquet, row 1: label 2 is not a class: there are 2"),
        (
            [png(0), png(1)],
            [0, -2],
            "train.parquet, row 1: label -2 of column 'label' is neither a class number",
        ),
        ([], [], "contains no images"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_number(tmp_path, images, labels, words):
    more = [png(number) for number in range(2, 12)] if images else []
    parquet(tmp_path / "train.parquet", [*images, *more], [*labels, *([0] * len(more))], names=["cat", "dog"])
    refused(words, tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 no more"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    refused("train.parquet: cannot be read: Parquet ", tmp_path)
