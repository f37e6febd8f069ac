"""Data sets as people have them, each against the counts that a person would expect, or a refusal of one line."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import config, encoded, parquet, pixels, png, sizes, tree
from layouts import arrays, cifar10, cifar100, classes, folders, lines, listed, saved, shards, tables
from PIL import Image

from harness.cli import main
from harness.core.errors import UserError
from harness.data import splits
from harness.data import tables as source
from harness.data.config import DataConfig
from harness.data.dataset import read

DRAWN = "validation and test drawn from the training images, each class in proportion"
THREE = {"train": 5, "validation": 2, "test": 3}


class Case(NamedTuple):
    """A data set, and what is understood of it."""

    what: str
    build: Callable[[Path], Any]  # writes it below a folder, and may return another path
    splits: tuple[int, int, int]  # images of train, validation and test
    classes: str  # their names
    counts: list[int]  # images of each class
    said: tuple[str, ...] = ()  # a part of each note, in order
    settings: dict[str, Any] = {}


class Refused(NamedTuple):
    """A data set that is refused, and in which words."""

    what: str
    build: Callable[[Path], Any]
    words: str
    settings: dict[str, Any] = {}


def beside(build, *places, content=b"x"):
    """Returns a builder that also writes files."""

    def write(root):
        found = build(root)
        for place in places:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(content)
        return found

    return write


def together(*builds):
    """Returns a builder that does what all of these do, one after another."""

    def write(root):
        for build in builds:
            build(root)

    return write


def replaced(build, contents):
    """Returns a builder that gives files another content."""

    def write(root):
        found = build(root)
        for place, content in contents.items():
            (root / place).write_bytes(content)
        return found

    return write


def named(train, validation, test):
    return lambda root: folders(root, {train: 5, validation: 2, test: 3})


def linked(root):
    classes(root / "data", {"a": 10})
    classes(root / "elsewhere", {"b": 10})
    (root / "data" / "b").symlink_to(root / "elsewhere" / "b")
    (root / "elsewhere" / "x.png").write_bytes(png(99))
    (root / "data" / "a" / "x.png").symlink_to(root / "elsewhere" / "x.png")
    (root / "data" / "a" / "loop").symlink_to(root / "data")
    return root / "data"


def labelled(root, labels, name="train", **more):
    """Writes a Parquet file with images of these labels."""
    table = {"image": [png(n) for n in range(len(labels))], "label": labels, **more}
    pq.write_table(pa.table(table), root / f"{name}.parquet")


def held_back(root):
    tables(root, {"train": 20}, names=["cat", "dog"])
    parquet(root / "test.parquet", [png(n) for n in range(50, 56)], [-1] * 6, names=["cat", "dog"])


FOLDERS = [
    Case("classes", lambda p: classes(p, {"a": 10, "b": 20}), (15, 6, 9), "a b", [10, 20], (DRAWN,)),
    Case("train val test", named("train", "val", "test"), (10, 4, 6), "a b", [10, 10]),
    Case(
        "training validation testing", named("training", "validation", "testing"), (10, 4, 6), "a b", [10, 10]
    ),
    Case("Train Valid Test", named("Train", "Valid", "Test"), (10, 4, 6), "a b", [10, 10]),
    Case("train2017 val2017", named("train2017", "val2017", "test2017"), (10, 4, 6), "a b", [10, 10]),
    Case("dev", named("TRAIN", "dev", "test"), (10, 4, 6), "a b", [10, 10]),
    Case("eval is test, as in the library", named("train", "val", "eval"), (10, 4, 6), "a b", [10, 10]),
    Case(
        "seg_train and seg_test",
        lambda p: folders(p, {"seg_train": 5, "seg_test": 3}),
        (7, 3, 6),
        "a b",
        [8, 8],
        ("validation drawn from the training images",),
    ),
    Case(
        "a split that repeats its name",
        together(
            lambda p: folders(p / "seg_train", {"seg_train": 5}),
            lambda p: folders(p / "seg_test", {"seg_test": 3}),
        ),
        (7, 3, 6),
        "a b",
        [8, 8],
        ("validation drawn",),
    ),
    Case(
        "train and test",
        lambda p: folders(p, {"train": 10, "test": 3}),
        (15, 5, 6),
        "a b",
        [13, 13],
        ("validation drawn",),
    ),
    Case(
        "train and val",
        lambda p: folders(p, {"train": 10, "val": 3}),
        (12, 6, 8),
        "a b",
        [13, 13],
        ("test drawn",),
    ),
    Case(
        "an archive unpacked a level deeper",
        together(lambda p: folders(p / "pets", {"train": 5, "val": 2, "test": 3})),
        (10, 4, 6),
        "a b",
        [10, 10],
        ("the classes lie one folder further down, in pets",),
    ),
    Case(
        "an archive of classes unpacked a level deeper",
        together(lambda p: classes(p / "pets", {"a": 10, "b": 10})),
        (10, 4, 6),
        "a b",
        [10, 10],
        ("the classes lie one folder further down, in pets", DRAWN),
    ),
    Case(
        "a class called train among vehicles",
        lambda p: classes(p, {"bus": 10, "car": 10, "train": 10}),
        (15, 6, 9),
        "bus car train",
        [10, 10, 10],
        ("'train' is a class, since it holds images like the folders beside it", DRAWN),
    ),
    Case(
        "a class called test_tube",
        lambda p: classes(p, {"beaker": 10, "flask": 10, "test_tube": 10}),
        (15, 6, 9),
        "beaker flask test_tube",
        [10, 10, 10],
        (DRAWN,),
    ),
    Case(
        "images beside the folders of classes",
        beside(lambda p: classes(p, {"a": 10, "b": 10}), "x.png", "y.jpg"),
        (10, 4, 6),
        "a b",
        [10, 10],
        ("left out 2 images beside the folders of classes", DRAWN),
    ),
    Case(
        "an empty folder of a class",
        together(lambda p: classes(p, {"a": 10, "b": 10}), lambda p: (p / "c").mkdir()),
        (10, 4, 6),
        "a b c",
        [10, 10, 0],
        ("1 folders of classes hold no images (c)", DRAWN),
    ),
    Case(
        "what systems leave, and notes",
        beside(
            lambda p: classes(p, {"a": 10, "b": 10}),
            *(".DS_Store", "a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "b/._0.png", "__MACOSX/a/x.png"),
            *(".git/x.png", "a/notes.txt", "b/notes.txt", "b/README"),
        ),
        (10, 4, 6),
        "a b",
        [10, 10],
        ("skipped 3 files that are no images by their names (2 .txt, 1 without ending)", DRAWN),
    ),
    Case("linked folders and images, and a loop", linked, (11, 4, 6), "a b", [11, 10], (DRAWN,)),
    Case(
        "folders inside those of classes",
        lambda p: tree(p, [f"{kind}/2024/{day}/{n}.png" for kind in "ab" for day in "12" for n in range(5)]),
        (10, 4, 6),
        "a b",
        [10, 10],
        (DRAWN,),
    ),
    Case(
        "splits that are named",
        lambda p: folders(p, {"fit": 5, "tune": 2, "final": 3}),
        (10, 4, 6),
        "a b",
        [10, 10],
        settings={"splits": {"train": "fit", "validation": ["tune"], "test": "final"}},
    ),
    Case(
        "other names for classes",
        lambda p: classes(p, {"n01": 10, "n02": 10}),
        (10, 4, 6),
        "tench n02",
        [10, 10],
        (DRAWN,),
        {"class_names": {"n01": "tench"}},
    ),
    Case(
        "some of the classes",
        lambda p: classes(p, {"a": 10, "b": 4, "c": 10}),
        (10, 4, 6),
        "c a",
        [10, 10],
        (DRAWN,),
        {"classes": ["c", "a"]},
    ),
    Case(
        "a subset",
        lambda p: folders(p, {"train": 20, "val": 10, "test": 10}),
        (20, 10, 10),
        "a b",
        [20, 20],
        settings={"subset": 0.5},
    ),
    Case(
        "unreadable images that are skipped",
        replaced(
            lambda p: classes(p, {"a": 12, "b": 11}),
            {"a/3.png": b"", "a/7.png": b"text", "b/0.png": png(0)[:60]},
        ),
        (10, 4, 6),
        "a b",
        [10, 10],
        ("left out 3 images that cannot be read: ", DRAWN),
        {"skip_unreadable": True},
    ),
    Case(
        "grey images among coloured ones",
        replaced(lambda p: classes(p, {"a": 10, "b": 10}), {"a/3.png": png(0, channels=1)}),
        (10, 4, 6),
        "a b",
        [10, 10],
        (DRAWN, "1 of the images are grey: read as colour like the others"),
    ),
    Case(
        "images of several sizes",
        replaced(
            lambda p: classes(p, {"a": 10, "b": 10}), {"a/3.png": png(0, (5, 9)), "a/4.png": png(0, (20, 30))}
        ),
        (10, 4, 6),
        "a b",
        [10, 10],
        (
            DRAWN,
            "stored as 5 to 20 x 6 to 30 pixels, resized and cropped to 8x8; 19 of them are enlarged",
        ),
        {"size": 8},
    ),
]


def of_configuration(root):
    for split, count in THREE.items():
        for part in range(2):
            tables(root / "default" / split, {f"{part:04d}": count}, start=100 * part)


TABLES = [
    Case(
        "files of the Hub",
        together(
            lambda p: tables(
                p / "data",
                {f"train-0000{n}-of-00002": 5 for n in range(2)} | {"test-00000-of-00001": 6},
                names=["cat", "dog"],
            )
        ),
        (7, 3, 6),
        "cat dog",
        [8, 8],
        ("validation drawn",),
    ),
    Case("folders of splits", of_configuration, (10, 4, 6), "0 1", [12, 8]),
    Case("one file", lambda p: tables(p, {"all": 20}) / "all.parquet", (10, 4, 6), "0 1", [10, 10], (DRAWN,)),
    Case(
        "a file that says no split beside others",
        lambda p: tables(p, {"train": 10, "val": 4, "test": 6, "extra": 9}),
        (10, 4, 6),
        "0 1",
        [10, 10],
        ("left out 1 files whose names say no split, beside those of splits",),
    ),
    Case(
        "files that are named",
        lambda p: tables(p, {"fit-0": 4, "fit-1": 6, "tune": 4, "final": 6}),
        (10, 4, 6),
        "0 1",
        [10, 10],
        settings={"splits": {"train": "fit-*", "validation": "tune.parquet", "test": ["final.*"]}},
    ),
    *(
        Case(
            f"labels in {name!r}",
            lambda p, name=name: tables(p, {"all": 20}, label=name),
            (10, 4, 6),
            "0 1",
            [10, 10],
            (DRAWN,),
        )
        for name in ("labels", "class", "cls", "Target")
    ),
    Case(
        "names as labels",
        lambda p: labelled(p, ["dog", "cat"] * 10),
        (10, 4, 6),
        "cat dog",
        [10, 10],
        (DRAWN,),
    ),
    Case(
        "labels of the test images are withheld",
        held_back,
        (16, 4, 6),
        "cat dog",
        [10, 10],
        ("6 images of validation and test have no label: they become training images", DRAWN),
    ),
    Case(
        "some labels are null",
        lambda p: labelled(p, [0, 1] * 10 + [None] * 5),
        (15, 4, 6),
        "0 1",
        [10, 10],
        (DRAWN,),
    ),
    Case(
        "no labels",
        lambda p: pq.write_table(
            pa.table({"image": [png(n) for n in range(20)], "n": range(20)}), p / "a.parquet"
        ),
        (10, 4, 6),
        "",
        [],
        (DRAWN,),
        {"label_column": "none"},
    ),
    Case(
        "a saved Dataset",
        lambda p: saved(p / "pets"),
        (10, 4, 6),
        "cat dog",
        [10, 10],
        (DRAWN,),
        {"name": "arrow"},
    ),
    Case(
        "a saved DatasetDict",
        lambda p: saved(p / "pets", {"train": 10, "validation": 4, "test": 6}),
        (10, 4, 6),
        "cat dog",
        [10, 10],
        settings={"name": "arrow"},
    ),
    Case(
        "shards with labels in .cls",
        lambda p: shards(p, {"train-000": 6, "train-001": 4, "val-000": 4, "test-000": 6}),
        (10, 4, 6),
        "0 1",
        [10, 10],
        settings={"name": "webdataset"},
    ),
    Case(
        "shards with labels in .json",
        lambda p: shards(p, {"000": 12, "001": 8}, "json"),
        (10, 4, 6),
        "0 1",
        [10, 10],
        (DRAWN,),
        {"name": "webdataset", "label_column": "json.label"},
    ),
    Case(
        "shards with labels in .json that no setting names",
        lambda p: shards(p, {"000": 20}, "json"),
        (10, 4, 6),
        "0 1",
        [10, 10],
        (DRAWN,),
        {"name": "webdataset"},
    ),
    Case("CSV", lambda p: listed(p, {"all": 20}), (10, 4, 6), "cat dog", [10, 10], (DRAWN,), {"name": "csv"}),
    Case(
        "CSV with splits",
        lambda p: listed(p, {"train": 10, "val": 4, "test": 6}, split="split"),
        (10, 4, 6),
        "cat dog",
        [10, 10],
        settings={"name": "csv"},
    ),
    Case(
        "tabs between columns",
        lambda p: listed(p, {"all": 20}, "list.tsv", "\t"),
        (10, 4, 6),
        "cat dog",
        [10, 10],
        (DRAWN,),
        {"name": "csv"},
    ),
    Case(
        "a class called None",
        replaced(
            lambda p: classes(p, {"x": 20}),
            {
                "list.csv": "".join(
                    ["path,class\n", *(f"x/{n}.png,{('None', 'NA')[n % 2]}\n" for n in range(20))]
                ).encode()
            },
        ),
        (10, 4, 6),
        "NA None",
        [10, 10],
        (DRAWN,),
        {"name": "csv"},
    ),
    Case("JSON Lines", lambda p: lines(p), (10, 4, 6), "cat dog", [10, 10], (DRAWN,), {"name": "json"}),
]
ARRAYS = [
    Case(
        "Keras's mnist.npz",
        lambda p: arrays(p / "mnist.npz", {"train": 14, "test": 6}),
        (10, 4, 6),
        "0 1",
        [10, 10],
        ("validation drawn",),
        {"name": "npz"},
    ),
    Case(
        "MedMNIST",
        lambda p: arrays(
            p / "pathmnist.npz",
            {"train": 10, "val": 4, "test": 6},
            "{}_images",
            "{}_labels",
            channels=3,
            column=True,
        ),
        (10, 4, 6),
        "0 1",
        [10, 10],
        settings={"name": "npz"},
    ),
    Case(
        "arrays of floats",
        lambda p: arrays(p / "a.npz", {"train": 10, "val": 4, "test": 6}, scale=1),
        (10, 4, 6),
        "0 1",
        [10, 10],
        settings={"name": "npz"},
    ),
    Case(
        "CIFAR-10",
        lambda p: cifar10(p / "cifar-10-batches-py").parent,
        (16, 4, 4),
        "airplane automobile",
        [12, 12],
        ("validation drawn",),
        {"name": "cifar", "validation": 1 / 6},
    ),
    Case(
        "CIFAR-100",
        lambda p: cifar100(p),
        (15, 5, 6),
        "apple pear whale",
        [9, 9, 8],
        ("validation drawn",),
        {"name": "cifar"},
    ),
    Case(
        "CIFAR-100's coarse classes",
        lambda p: cifar100(p),
        (15, 5, 6),
        "fruit mammal",
        [18, 8],
        ("validation drawn",),
        {"name": "cifar", "label_column": "coarse"},
    ),
]


def names_of(cases):
    return [case.what for case in cases]


def built(case, tmp_path, name):
    found = case.build(tmp_path)
    place = found if isinstance(found, Path) else tmp_path
    return config(place, **{"name": name, **case.settings})


def check(case, tmp_path, name):
    reading = read(built(case, tmp_path, name), 0)
    dataset = reading.dataset
    assert tuple(sizes(dataset).values()) == case.splits
    assert dataset.classes == tuple(case.classes.split())
    labelled = dataset.labels[dataset.labels >= 0]
    np.testing.assert_array_equal(np.bincount(labelled, minlength=len(case.classes.split())), case.counts)
    for split in ("validation", "test"):
        assert not case.counts or (dataset.labels[dataset.splits[split]] >= 0).all()
    assert len(reading.notes) == len(case.said), reading.notes
    for note, words in zip(reading.notes, case.said, strict=True):
        assert words in note
        assert "\n" not in note


@pytest.mark.parametrize("case", FOLDERS, ids=names_of(FOLDERS))
def test_a_folder_as_people_have_it(case, tmp_path):
    check(case, tmp_path, "folder")


@pytest.mark.parametrize("case", TABLES, ids=names_of(TABLES))
def test_a_table_as_people_have_it(case, tmp_path):
    check(case, tmp_path, "parquet")


@pytest.mark.parametrize("case", ARRAYS, ids=names_of(ARRAYS))
def test_arrays_as_people_have_them(case, tmp_path):
    check(case, tmp_path, "npz")


class Runs:
    """What a hostile pickle holds: it would create a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def hostile(root):
    cifar10(root)
    (root / "data_batch_1").write_bytes(pickle.dumps({b"data": Runs(root / "ran"), b"labels": []}))


def jpeg(number, length=None):
    """Returns a JPEG file, or its beginning."""
    return encoded(Image.fromarray(pixels(number, (40, 40))), "JPEG")[:length]


def two_labels(root):
    labelled(root, [0, 1] * 5, category=[1, 0] * 5)


REFUSED = [
    Refused(
        "val and test without classes",
        together(
            lambda p: folders(p, {"train": 9}),
            lambda p: tree(p, [f"{split}/{n}.png" for split in ("val", "test") for n in range(9)]),
        ),
        "holds images, but no folder per class; sort them into CLASS/IMAGE",
    ),
    Refused(
        "other folders beside splits",
        lambda p: folders(p, {"train": 9, "test": 3, "holdout": 2}),
        "has folders of splits (test, train) and other folders (holdout) side by side; move these elsewhere",
    ),
    Refused(
        "images without classes in train, test and another folder",
        lambda p: tree(p, [f"{split}/{n}.png" for split in ("train", "test", "sample") for n in range(9)]),
        "has folders of splits (test, train) and other folders (sample) side by side",
    ),
    Refused(
        "annotations beside images",
        beside(
            lambda p: tree(p, [f"train2017/{n}.png" for n in range(9)]),
            "annotations/train.json",
            "labels/x.txt",
        ),
        "has folders of splits (train2017) and other folders (annotations, labels) side by side",
    ),
    Refused(
        "a named split that is not there",
        lambda p: folders(p, {"train": 9}),
        "data.splits.test: no folder 'testt' in ",
        {"splits": {"train": "train", "test": "testt"}},
    ),
    Refused("images without folders", lambda p: tree(p, ["x.png"]), "holds images, but no folder per class"),
    Refused(
        "an empty folder", lambda p: None, "contains no folders; expected one folder of images per class"
    ),
    Refused(
        "a file for a folder",
        lambda p: parquet(p / "x.png", [png(0)], [0]),
        "x.png: not a folder",
    ),
    Refused(
        "images of several sizes",
        replaced(lambda p: classes(p, {"a": 9, "b": 9}), {"b/3.png": png(0, (5, 9))}),
        "b/3.png: 5x9 pixels where the first image has 6x6; set data.size",
    ),
    Refused(
        "a class that is not there",
        lambda p: classes(p, {"cat": 9, "dog": 9}),
        "data.classes: no class 'dogs'; did you mean 'dog'?",
        {"classes": ["cat", "dogs"]},
    ),
    Refused(
        "a new name for no class",
        lambda p: classes(p, {"cat": 9, "dog": 9}),
        "data.class_names: no class 'ctt'; did you mean 'cat'?",
        {"class_names": {"ctt": "Cat"}},
    ),
    Refused(
        "two classes of one name",
        lambda p: classes(p, {"cat": 9, "dog": 9}),
        "'dog' is given twice",
        {"class_names": {"cat": "dog"}},
    ),
    Refused(
        "several configurations",
        together(
            lambda p: tables(p / "full" / "train", {"0000": 9}),
            lambda p: tables(p / "small" / "train", {"0000": 5}),
        ),
        "several configurations have a train split (full, small)",
        {"name": "parquet"},
    ),
    Refused(
        "several columns of labels",
        two_labels,
        "several columns may hold labels (label, category); set data.label_column to one",
        {"name": "parquet"},
    ),
    Refused(
        "no files of the format",
        lambda p: classes(p, {"a": 9}),
        "no *.parquet or *.pq files in this folder",
        {"name": "parquet"},
    ),
    Refused(
        "named files that are not there",
        lambda p: tables(p, {"train": 9}),
        "data.splits.train: no file in ",
        {"name": "parquet", "splits": {"train": "fit*"}},
    ),
    Refused(
        "a file in two splits",
        lambda p: tables(p, {"train": 9, "test": 5}),
        "data.splits: 'test.parquet' is given twice",
        {"name": "parquet", "splits": {"train": "*.parquet", "test": "test.parquet"}},
    ),
    Refused(
        "a folder in two splits",
        lambda p: folders(p, {"fit": 9}),
        "/fit' is given twice",
        {"splits": {"train": "fit", "test": "fit"}},
    ),
    Refused(
        "a list with an unknown split",
        lambda p: listed(p, {"train": 9, "holdout": 2}, split="split"),
        "'holdout' in column 'split' is not train, validation or test",
        {"name": "csv"},
    ),
    Refused(
        "a list of images that are not there",
        replaced(lambda p: None, {"list.csv": b"file_name,label\nx.png,cat\n"}),
        "list.csv, row 0): the image cannot be read: ",
        {"name": "csv"},
    ),
    Refused(
        "shards that are no archives",
        replaced(lambda p: None, {"train.tar": b"no archive"}),
        "train.tar: cannot be read: ",
        {"name": "webdataset"},
    ),
    Refused(
        "arrays whose levels no rule covers",
        lambda p: arrays(p / "a.npz", {"train": 9}, scale=300),
        "array 'x_train': float32 from ",
        {"name": "npz"},
    ),
    Refused(
        "arrays without images",
        lambda p: arrays(p / "a.npz", {"train": 9}, images="z_{}"),
        "no array of images among z_train, y_train; expected names such as x_train and y_train",
        {"name": "npz"},
    ),
    Refused(
        "a pickle that would run code",
        hostile,
        "data_batch_1: not a readable CIFAR file: ",
        {"name": "cifar"},
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=names_of(REFUSED))
def test_what_would_be_guessed_is_refused_in_one_line(case, tmp_path):
    with pytest.raises(UserError) as caught:
        read(built(case, tmp_path, "folder"), 0)
    assert case.words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_all_that_cannot_be_read_is_in_one_message(tmp_path):
    bad = {"zero": b"", "jpeg": jpeg(1, 900), "png": png(1, (40, 40))[:900], "text": b"not a picture"}
    assert len(jpeg(1)) > 900
    classes(tmp_path, {"a": 10, "b": 10})
    for name, content in bad.items():
        (tmp_path / "a" / f"{name}.jpg").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(config(tmp_path, name="folder", size=6), 0)
    assert str(caught.value).count("the image cannot be read") == len(bad)
    assert str(caught.value).endswith("; data.skip_unreadable=true leaves them out")
    reading = read(config(tmp_path, name="folder", size=6, skip_unreadable=True), 0)
    assert len(reading.dataset.labels) == 20
    assert reading.notes[0].startswith("left out 4 images that cannot be read: ")


@pytest.mark.parametrize("case", [REFUSED[0], REFUSED[1], REFUSED[6]], ids=lambda case: case.what)
def test_the_command_line_says_it_in_one_line(case, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    case.build(data)
    words = ["--set", "data.name=folder", "--set", f"data.path={data}"]
    assert main(["plan", "quickstart", "--results", str(tmp_path / "results"), *words]) == 2
    said = capsys.readouterr().err
    assert case.words in " ".join(said.split())
    assert "Traceback" not in said


def test_the_keywords_are_those_of_the_library():
    for split, words in datasets.data_files.SPLIT_KEYWORDS.items():
        assert set(words) <= set(splits.KEYWORDS[str(split)])


LAYOUTS = [
    ["train.parquet", "validation.parquet", "test.parquet"],
    [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/test-00000-of-00001.parquet",
    ],
    ["train/0000.parquet", "train/0001.parquet", "val/0000.parquet", "eval/0.parquet"],
    ["default/train/0000.parquet", "default/test/0000.parquet"],
    ["training/a.parquet", "testing/a.parquet"],
    ["train.parquet", "pets-dev.parquet", "my_test_1.parquet"],
    ["pets_train_1.parquet", "pets_train_2.parquet", "pets_valid.parquet", "pets_evaluation.parquet"],
    ["0.parquet", "1.parquet"],
    ["a.parquet", "trainer.parquet", "contest.parquet"],
    ["train/a.parquet", "test.parquet"],
    ["train.parquet", "other.parquet"],
]


@pytest.mark.parametrize("names", LAYOUTS, ids=lambda names: names[0])
def test_files_have_the_splits_that_the_library_gives_them(tmp_path, monkeypatch, names):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    whole = parquet(tmp_path / "one.parquet", [png(0)], [0])
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole, tmp_path / "data" / name)
    place = tmp_path / "data"
    theirs = datasets.load_dataset_builder("parquet", data_dir=str(place), cache_dir=str(tmp_path / "cache"))
    expected = {
        str(split): sorted(str(Path(file).relative_to(place)) for file in files)
        for split, files in theirs.config.data_files.items()
    }
    ours: dict[str, list[str]] = {}
    for file in source._files(DataConfig(name="parquet", path=str(place)))[0]:
        ours.setdefault(file.split or "train", []).append(str(Path(file.path).relative_to(place)))
    assert {split: sorted(files) for split, files in ours.items()} == expected
