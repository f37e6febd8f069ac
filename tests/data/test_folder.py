"""Folders of images by class."""

import pytest
from images import config, pixels, refused, tree
from layouts import classes

from harness.core.errors import UserError
from harness.data.config import SOURCES
from harness.data.dataset import load
from harness.data.files import Folder


def test_a_folder_of_classes_is_split_here(tmp_path):
    tree(tmp_path, [f"{name}/{number}.png" for name in ("dog", "cat") for number in range(10)])
    dataset = load(config(tmp_path, name="folder"), 0)
    assert dataset.classes == ("cat", "dog")
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    by_pixels = {
        image.tobytes(): int(label) for image, label in zip(dataset.images, dataset.labels, strict=True)
    }
    assert by_pixels[pixels(0).transpose(2, 0, 1).tobytes()] == 1
    assert by_pixels[pixels(10).transpose(2, 0, 1).tobytes()] == 0


def test_a_folder_of_splits_keeps_them(tmp_path):
    places = [f"{split}/{name}/x.png" for split in ("train", "VAL", "test") for name in ("cat", "dog")]
    tree(tmp_path, places)
    dataset = load(config(tmp_path, name="folder"), 0)
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    assert set(dataset.labels[dataset.splits["test"]]) == {0, 1}


def test_files_that_are_no_images_by_name_and_hidden_folders_are_passed_over(tmp_path):
    tree(tmp_path, [f"cat/{number}.png" for number in range(10)])
    (tmp_path / "cat" / "notes.txt").write_text("x")
    tree(tmp_path, [".hidden/x.png"])
    assert len(load(config(tmp_path, name="folder"), 0).images) == 10


def test_an_unreadable_image_of_a_folder_is_named(tmp_path):
    tree(tmp_path, [f"cat/{number}.png" for number in range(10)])
    (tmp_path / "cat" / "bad.png").write_bytes(b"x")
    refused("cat/bad.png: the image cannot be read", tmp_path, name="folder")


def test_a_folder_without_folders_is_refused(tmp_path):
    tree(tmp_path, ["x.png"])
    refused("holds images, but no folder per class; sort them into CLASS/IMAGE", tmp_path, name="folder")
    (tmp_path / "x.png").unlink()
    refused("contains no folders; expected one folder of images per class", tmp_path, name="folder")


def test_a_folder_whose_folders_are_empty_holds_no_images(tmp_path):
    (tmp_path / "cat").mkdir()
    refused("contains no images", tmp_path, name="folder")


def test_all_unreadable_images_are_named_at_once(tmp_path):
    tree(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)])
    for place in ("cat/3.png", "cat/7.png", "dog/0.png"):
        (tmp_path / place).write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        load(config(tmp_path, name="folder"), 0)
    assert str(caught.value).count("the image cannot be read") == 3


def test_files_without_a_stamp_are_read_at_every_plan(tmp_path, monkeypatch):
    """As on stores that tell neither ETag nor time: an edit of the same size would go unnoticed."""
    place = classes(tmp_path / "data", {"a": 3, "b": 3})
    known = SOURCES.load("folder")(config(place, name="folder")).parts
    assert all(part.identity for part in known)
    listed = Folder.entries
    monkeypatch.setattr(Folder, "entries", lambda self: [one._replace(stamp="") for one in listed(self)])
    assert all(part.identity is None for part in SOURCES.load("folder")(config(place, name="folder")).parts)
