"""Pictures of a data set, and copies that only pixels show."""

import base64
import io

import numpy as np
import pytest
from images import pixels
from layouts import classes
from PIL import Image

from harness.core.artifacts import ArtifactStore
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.config import DataConfig
from harness.data.contact import CELL, CLASSES, decoded_facts
from harness.data.dataset import Images, open_dataset


@pytest.fixture
def context(tmp_path):
    return Context(ArtifactStore(Storage(str(tmp_path / "results"))), {}, ray=False)


def facts(path, context, **settings):
    """Returns what is known of a folder once it is decoded, and its data set."""
    stage = Images.read(DataConfig(name="folder", path=str(path), **settings), 0).stage
    assert decoded_facts("pets", stage, context) is None
    for shard in stage.parts:
        context.ensure(shard)
    return decoded_facts("pets", stage, context), open_dataset(stage, context)


def opened(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))


def test_each_class_has_a_row_with_its_first_training_images(tmp_path, context):
    found, dataset = facts(classes(tmp_path / "data", {"cat": 10, "dog": 12}), context)
    assert (found["sheet"]["data"], found["sheet"]["classes"]) == ("pets", 2)
    train = dataset.splits["train"]
    for number, row in enumerate(found["sheet"]["rows"]):
        chosen = train[dataset.labels[train] == number]
        assert (row["name"], row["images"]) == (("cat", "dog")[number], len(chosen))
        scale = CELL // 6  # an integer, so that pixels stay what they are
        first = np.asarray(dataset.images[int(chosen[0])]).transpose(1, 2, 0)
        sheet = opened(row["picture"])
        np.testing.assert_array_equal(sheet[: 6 * scale : scale, : 6 * scale : scale], first)


def test_of_many_classes_some_are_shown_from_the_first_to_the_last_quarter(tmp_path, context):
    found, _ = facts(classes(tmp_path / "data", {f"c{number:02d}": 4 for number in range(30)}), context)
    names = [row["name"] for row in found["sheet"]["rows"]]
    assert len(names) == CLASSES
    assert names[0] == "c00"
    assert names[-1] > "c22"


def test_copies_in_another_format_are_found_by_their_pixels(tmp_path, context):
    data = tmp_path / "data"
    for split, numbers in (("train", range(10)), ("val", range(20, 24)), ("test", range(9, 15))):
        for number in numbers:
            file = data / split / "ab"[number % 2] / f"{number}.{'png' if split == 'train' else 'bmp'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(number)).save(file)
    stage = Images.read(DataConfig(name="folder", path=str(data)), 0).stage
    assert not any("copies" in line for line in stage.options["warnings"])
    found, _ = facts(data, context)
    (line,) = found["warnings"]
    assert line.startswith("pets: 1 of 6 test images are pixel for pixel copies of training images")
