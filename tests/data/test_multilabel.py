"""Data whose images have several labels: how they are read, said, split and refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import config, pixels, png, refused, sizes, tree
from sklearn.metrics import average_precision_score

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import Images, load, read
from harness.data.index import build
from harness.data.label_arrays import strata
from harness.data.labels import labels_of
from harness.data.source import Record, Source
from harness.data.splitting import stratified
from harness.testing.datasets import DataSetContract

TAGS = [["cat", "dog"], [], ["owl"], ["dog"], None, ["cat", "owl", "cat"]]
MATRIX = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [-1, -1, -1], [1, 0, 1]]


def labels(given, names=None, **settings):
    records = [Record(png(0), label, None, f"image {n}") for n, label in enumerate(given)]
    source, settings = Source.of(records, names), DataConfig(**settings)
    return labels_of(build(source, settings), np.arange(len(given)), source, settings)


def as_tuples(given):
    return [None if one is None else tuple(one) for one in given]


def test_lists_of_names_are_a_matrix_of_0_and_1():
    found = labels(as_tuples(TAGS))
    assert found.classes == ["cat", "dog", "owl"]
    assert found.numbers.dtype == np.int8
    assert found.numbers.tolist() == MATRIX
    assert found.notes == ["1 images name a class more than once, which counts once: it is there or not"]


def test_numbers_count_as_places_among_the_sources_classes():
    assert labels([(0, 2), (), None], ["a", "b", "c"]).numbers.tolist() == [
        [1, 0, 1],
        [0, 0, 0],
        [-1, -1, -1],
    ]
    assert labels([(3,), (0, 1)]).classes == ["0", "1", "2", "3"]


def test_lists_of_0_and_1_of_one_length_say_of_each_class_whether_it_is_there():
    found = labels([(0, 1, 1), (0, 0, 0), None, (True, False, False)])
    assert found.numbers.tolist() == [[0, 1, 1], [0, 0, 0], [-1, -1, -1], [1, 0, 0]]
    assert found.classes == ["0", "1", "2"]
    assert found.notes == ["lists of 3 labels, all 0 or 1: each says of one class whether the image is of it"]
    assert labels([(0, 1, 1), (0, 0, 1)], ["a", "b", "c"]).classes == ["a", "b", "c"]


def test_lists_of_different_lengths_name_classes_even_if_these_are_0_and_1():
    assert labels([(0, 1), (1,), ()]).numbers.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert labels([(0, 1), (1, 0)]).numbers.tolist() == [
        [1, 1],
        [1, 1],
    ]  # ambiguous: refused where it is used


@pytest.mark.parametrize(
    ("given", "names", "words"),
    [
        ([("cat",), "dog"], None, "image 1: one label, but other images have lists of them"),
        ([("cat",), 0], None, "image 1: one label, but other images have lists of them"),
        ([("cat",), (1, 2)], None, "image 1: label 1 is a number, but other labels are names"),
        ([("cat",), ("cow",)], ["cat", "dog"], "image 1: label 'cow' is not a class: there are 2"),
        ([(0,), (2,)], ["cat", "dog"], "image 1: label 2 is not a class: there are 2, numbered from 0"),
        ([(0, 10**6)], None, "class number 1000000, but only 1 images; number classes from 0"),
        ([(True, False), (True,)], None, "lists of true and false must have one entry a class"),
        ([(), None], None, "all lists of labels are empty, so there are no classes"),
    ],
)
def test_lists_that_cannot_be_read_rightly_are_refused(given, names, words):
    with pytest.raises(UserError) as caught:
        labels(given, names)
    assert words in str(caught.value)


def test_chosen_classes_keep_images_of_none_of_them():
    found = labels(as_tuples(TAGS), class_names={"owl": "bird"}, classes=["bird", "cat"])
    assert found.numbers.tolist() == [[0, 1], [0, 0], [1, 0], [0, 0], [-1, -1], [1, 1]]
    assert found.kept.all()
    assert "1 images are of none of data.classes: kept, as of no class" in found.notes
    with pytest.raises(UserError, match=r"data\.classes: no class 'ca'"):
        labels(as_tuples(TAGS), classes=["ca"])


def metadata(root, rows, name="metadata.jsonl"):
    """Writes images and the file that lists them with their labels; returns the folder."""
    tree(root, [f"{number}.png" for number in range(len(rows))])
    lines = [json.dumps({"file_name": f"{number}.png", **row}) for number, row in enumerate(rows)]
    (root / name).write_text("\n".join(lines))
    return root


def whole(place, **settings):
    """Returns all labels in the order of the source, and the classes."""
    reading = read(config(place, **settings), 0)
    order = np.lexsort((reading.places, reading.parts))
    return reading.dataset.labels[order].tolist(), list(reading.dataset.classes)


def many(rows):
    return [rows[number % len(rows)] for number in range(24)]


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        ([{"labels": tags} for tags in TAGS], {}),
        ([{"objects": {"category": tags}} for tags in TAGS], {}),
        ([{"things": tags} for tags in TAGS], {"label_column": "things"}),
        (
            [
                {name: None if tags is None else int(name in tags) for name in ("cat", "dog", "owl")}
                for tags in TAGS
            ],
            {"label_columns": ["cat", "dog", "owl"]},
        ),
    ],
)
def test_a_folder_of_images_with_metadata(tmp_path, rows, settings):
    found, classes = whole(metadata(tmp_path, many(rows)), name="json", **settings)
    assert classes == ["cat", "dog", "owl"]
    assert found == many(MATRIX)


@pytest.mark.parametrize(("separator", "ending"), [("|", ".csv"), (" ", ".csv"), (",", ".tsv")])
def test_names_in_a_text_are_separated_where_the_separator_is_given(tmp_path, separator, ending):
    tree(tmp_path, [f"{number}.png" for number in range(24)])
    between = "\t" if ending == ".tsv" else ","
    texts = ["" if tags is None else f"{separator}".join(tags) for tags in many(TAGS)]
    rows = [between.join((f"{number}.png", text)) for number, text in enumerate(texts)]
    (tmp_path / f"list{ending}").write_text("\n".join([between.join(("file_name", "tags")), *rows]))
    given = {"name": "csv", "label_column": "tags"}
    found, classes = whole(tmp_path, label_separator=separator, **given)
    assert classes == ["cat", "dog", "owl"]
    assert found == [
        [0, 0, 0] if row[0] < 0 else row for row in many(MATRIX)
    ]  # nothing is none of the classes
    untold = read(config(tmp_path, **given), 0).dataset
    assert not untold.multilabel
    assert separator.join(("cat", "dog")) in untold.classes, "no separator is guessed"
    said = "2 classes have a '|' in their names, such as 'cat|dog': if these are several labels"
    assert any(said in note for note in read(config(tmp_path, **given), 0).notes) == (separator == "|")


def parquet(path, tags, feature=None):
    column = pa.array(tags, pa.list_(pa.int64()))
    structs = [{"bytes": png(number), "path": None} for number in range(len(tags))]
    table = pa.table({"image": pa.array(structs), "labels": column})
    if feature is not None:
        about = {"info": {"features": {"image": {"_type": "Image"}, "labels": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("kind", ["List", "Sequence"])
def test_parquet_with_lists_of_class_labels(tmp_path, kind):
    numbers = {"cat": 0, "dog": 1, "owl": 2}
    tags = [None if one is None else [numbers[name] for name in one] for one in many(TAGS)]
    feature = {"feature": {"names": list(numbers), "_type": "ClassLabel"}, "_type": kind}
    found, classes = whole(parquet(tmp_path / "train.parquet", tags, feature))
    assert classes == ["cat", "dog", "owl"]
    assert found == many(MATRIX)


def npz(path, y, **arrays):
    np.savez(path, x=np.stack([pixels(number) for number in range(24)]), y=y, **arrays)
    return path


def test_an_array_of_0_and_1_says_of_each_class_whether_it_is_there(tmp_path):
    matrix = np.array(many([row for row in MATRIX if row[0] >= 0]))
    found, classes = whole(
        npz(tmp_path / "a.npz", matrix.astype(float)), name="npz", class_names={"0": "cat"}
    )
    assert classes == ["cat", "1", "2"]
    assert found == matrix.tolist()


def test_what_is_no_label_is_refused(tmp_path):
    refused(
        "0.5 in 'y' of shape [24, 3] is neither 0 nor 1",
        npz(tmp_path / "a.npz", np.full((24, 3), 0.5)),
        name="npz",
    )
    refused(
        "labels of different shapes: 'y' [24, 3], 'y_test' [24]",
        npz(tmp_path / "b.npz", np.ones((24, 3)), x_test=np.zeros((24, 6, 6), np.uint8), y_test=np.ones(24)),
        name="npz",
    )
    lists = metadata(tmp_path / "lists", [{"labels": ["cat", None]}] * 24)
    refused("row 0: label None in a list of column 'labels' is neither a class number", lists, name="json")
    refused("is no text to separate; leave out data.label_separator", lists, name="json", label_separator="|")
    columns = metadata(tmp_path / "columns", [{"cat": 1, "dog": -1, "owl": None}] * 24)
    refused(
        "-1 in column 'dog' of data.label_columns is neither 0 nor 1",
        columns,
        name="json",
        label_columns=["cat", "dog"],
    )
    refused("None in column 'owl'", columns, name="json", label_columns=["cat", "owl"])
    refused("no column 'cta'; did you mean 'cat'?", columns, name="json", label_columns=["cta"])
    refused("'cat' is given twice", columns, name="json", label_columns=["cat", "cat"])


def noisy(root, n=200):
    draw = np.random.default_rng(0)
    there = draw.random((n, 3)) < (0.5, 0.3, 0.06)
    rows = [[name for name, one in zip(("cat", "dog", "owl"), row, strict=True) if one] for row in there]
    return metadata(root, [{"labels": row} for row in rows]), there


def test_the_plan_says_how_many_labels_images_have_and_what_chance_is(tmp_path):
    place, there = noisy(tmp_path)
    dataset = load(config(place, name="json"), 0)
    about = dataset.about[0]
    none = int((~there.any(1)).sum())
    assert f"3 classes, {there.sum(0).min()} to {there.sum(0).max()} images each; multi-label: " in about
    assert f"multi-label: {there.sum(1).mean():.3g} labels an image, {none} with none; chance level" in about
    truth = dataset.labels[dataset.splits["test"]]
    chance = np.mean([average_precision_score(truth[:, k], np.zeros(len(truth))) for k in range(3)])
    assert f"chance level {chance:.1%}, the mAP of a constant answer" in about
    notes = Images.read(config(place, name="json"), 0).stage.options["about"]
    assert any("images by the rarest of their classes in proportion" in note for note in notes)


def test_splits_hold_each_class_in_proportion_the_rarest_exactly(tmp_path):
    place, there = noisy(tmp_path)
    dataset = load(config(place, name="json", validation=0.25, test=0.25), 0)
    assert sizes(dataset) == {"train": 100, "validation": 50, "test": 50}
    for number, allowed in ((2, 1), (1, 4), (0, 6)):
        for name, share in (("train", 0.5), ("validation", 0.25), ("test", 0.25)):
            count = int(dataset.labels[dataset.splits[name], number].sum())
            assert abs(count - share * there[:, number].sum()) <= allowed, (number, name)


def test_a_stratum_is_the_rarest_class():
    matrix = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [-1, -1, -1], [1, 0, 1], [0, 1, 1], [0, 1, 0]])
    assert strata(matrix).tolist() == [0, 0, 3, -1, 2, 2, 1]
    numbers = np.array([2, 0, -1, 2])
    assert strata(numbers) is numbers
    order = stratified(np.random.default_rng(0).permutation(700), np.tile(matrix, (100, 1)))
    for stratum, share in ((0, 2), (2, 2), (1, 1)):
        assert (strata(np.tile(matrix, (100, 1)))[order[:70]] == stratum).sum() == 10 * share


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["cat"], ["dog"]], "every image has exactly one label: with class numbers instead of lists"),
        ([["cat"], ["cat", "dog"]], "1 of 2 classes have only train images ('cat'): cannot be learnt"),
        ([["cat", "dog"], []], "test has 7 images only: its mAP says little"),
    ],
)
def test_traps(tmp_path, rows, words):
    place = metadata(tmp_path, [{"labels": row} for row in many(rows)])
    assert any(words in one for one in Images.read(config(place, name="json"), 0).stage.options["warnings"])


def test_classes_without_a_positive_image_are_said(tmp_path):
    rows = [{"labels": ["rare"] if number == 3 else ["cat", "dog"][: number % 3]} for number in range(40)]
    warnings = Images.read(config(metadata(tmp_path, rows), name="json"), 0).stage.options["warnings"]
    said = " ".join(warnings)
    assert "1 of 3 classes have no test images ('rare'): left out of the test mAP" in said
    assert ("1 of 3 classes have no train images ('rare'): cannot be learnt" in said) or (
        "1 of 3 classes have no validation images ('rare'): left out of the validation mAP" in said
    )


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([{"labels": ["a", "b"]}, {"labels": ["a"]}], 2, "images have several labels, so images per class"),
        ([{"labels": [0, 1]}, {"labels": [1, 0]}], None, "every train image is of every class"),
    ],
)
def test_what_cannot_be_learnt_is_refused(tmp_path, rows, settings, words):
    dataset = load(config(metadata(tmp_path, many(rows)), name="json"), 0)
    with pytest.raises(UserError, match=words):
        dataset.labelled(settings)


class TestContract(DataSetContract):
    @pytest.fixture
    def config(self, tmp_path):
        return config(metadata(tmp_path, [{"labels": one} for one in many(TAGS)]), name="json")
