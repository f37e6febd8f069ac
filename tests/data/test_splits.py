"""The names of splits, and what each source does with them."""

import pytest
from images import parquet, png
from test_sources import config, hub_config, refused, row, tree

from harness.data.dataset import load
from harness.data.splits import NAMES, split_at_start, split_of


def sizes(dataset):
    return {name: len(places) for name, places in dataset.splits.items()}


@pytest.mark.parametrize(
    ("split", "name"), [(split, name) for split, names in NAMES.items() for name in names]
)
def test_each_name_is_its_split_in_any_case(split, name):
    for written in (name, name.upper(), f" {name.capitalize()} ", name.replace("_", "-")):
        assert split_of(written) == split
    for end in ("", "-00000-of-00002", "_0", ".part", "2"):
        assert split_at_start(f"{name}{end}") == split


@pytest.mark.parametrize(
    "name", ["testament", "valuable", "trainer", "device", "evaluate", "0000", "", "cats"]
)
def test_words_that_only_begin_alike_are_no_splits(name):
    assert split_of(name) is None
    assert split_at_start(name) is None


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "valid", "Testing"),
        ("seg_train", "dev", "seg_test"),
        ("TRAIN", "eval", "test"),
    ],
)
def test_folders_of_splits_are_kept(tmp_path, train, validation, test):
    counts = {train: 5, validation: 2, test: 3}
    tree(
        tmp_path,
        [f"{split}/{kind}/{n}.png" for split, count in counts.items() for kind in "ab" for n in range(count)],
    )
    assert sizes(load(config(tmp_path, name="folder"), 0)) == {"train": 10, "validation": 4, "test": 6}


def test_a_split_without_class_folders_is_refused(tmp_path):
    tree(tmp_path, [f"train/{kind}/{n}.png" for kind in "ab" for n in range(9)])
    tree(tmp_path, [f"test/{n}.png" for n in range(9)])
    refused(
        "test: holds images, but no folder per class; sort them into test/CLASS/IMAGE",
        tmp_path,
        name="folder",
    )


def test_other_folders_beside_splits_are_refused(tmp_path):
    tree(tmp_path, [f"train/{kind}/{n}.png" for kind in "ab" for n in range(9)])
    tree(tmp_path, ["holdout/a/0.png"])
    refused("folders of splits (train) and other folders (holdout) side by side", tmp_path, name="folder")


def test_what_systems_leave_is_no_class_and_no_image_and_other_files_are_counted(tmp_path):
    tree(tmp_path, [f"{kind}/{n}.png" for kind in "ab" for n in range(10)])
    tree(
        tmp_path,
        ["__MACOSX/a/x.png", ".git/x.png", "a/._0.png", "a/.DS_Store", "a/Thumbs.db", "b/__MACOSX/0.png"],
    )
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "b" / "labels.csv").write_text("x")
    (tmp_path / "b" / "README").write_text("x")
    found = load(config(tmp_path, name="folder"), 0)
    assert len(found.images) == 20
    assert found.classes == ("a", "b")
    (note,) = found.notes
    assert note.startswith("skipped 3 files that are no images by their names (")
    assert "1 .txt" in note
    assert "1 without ending" in note


def test_links_are_followed_and_a_circle_ends(tmp_path):
    tree(tmp_path / "elsewhere", [f"{n}.png" for n in range(8)])
    tree(tmp_path / "data", [f"{kind}/{n}.png" for kind in "ab" for n in range(6)])
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data" / "a")
    assert len(load(config(tmp_path / "data", name="folder"), 0).images) == 12 + 8


def test_the_hubs_converted_layout_keeps_its_test_images(tmp_path):
    for split, count in (("train", 10), ("validation", 4), ("test", 6)):
        for part in range(2):
            numbers = [100 * part + n for n in range(count // 2)]
            parquet(
                tmp_path / "default" / split / f"{part:04d}.parquet",
                [png(n) for n in numbers],
                [n % 2 for n in numbers],
            )
    assert sizes(load(config(tmp_path), 0)) == {"train": 10, "validation": 4, "test": 6}


def test_several_configurations_are_asked_about(tmp_path):
    for name in ("full", "small"):
        parquet(tmp_path / name / "train" / "0000.parquet", [png(n) for n in range(9)], [0, 1, 0] * 3)
    refused("several configurations have a train split (full, small)", tmp_path)
    assert len(load(config(tmp_path / "small"), 0).images) == 9


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
def test_splits_of_the_hub_are_kept_whatever_they_are_called(hub, name):
    hub(
        {
            "train": [row(n, n % 2) for n in range(20)],
            name: [row(n, n % 2) for n in range(30, 38)],
            "test": [row(50, 0)],
        }
    )
    assert sizes(load(hub_config(), 0)) == {"train": 20, "validation": 8, "test": 1}


def test_what_is_left_out_of_the_hub_is_said(hub):
    extra = {"extra": [row(n, n % 2) for n in range(60, 65)], "test": [row(n, -1) for n in range(3)]}
    hub({"train": [row(n, n % 2) for n in range(20)], **extra})
    found = load(hub_config(), 0)
    assert len(found.images) == 20
    assert [note.split(":")[0] for note in found.notes] == [
        "left out split 'extra' (5 images)",
        "left out split 'test' (3 images)",
    ]


def test_what_was_read_is_one_line(tmp_path):
    tree(tmp_path, [f"train/{kind}/{n}.png" for kind in "ab" for n in range(5)])
    tree(
        tmp_path,
        [f"test/a/{n}.png" for n in range(3)] + ["test/b/0.png"] + [f"val/{kind}/0.png" for kind in "ab"],
    )
    assert load(config(tmp_path, name="folder"), 0).about == (
        "16 images of 6x6 pixels, colour (train 10, validation 2, test 4); "
        "2 classes, 75.0% of test images in the largest"
    )
