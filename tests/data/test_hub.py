"""A data set on the Hub: real data sets of the library `datasets`, with the download replaced."""

import datasets
import numpy as np
import pytest
from images import pixels, png, sizes

from harness.core.errors import UserError
from harness.core.recent import Recent
from harness.data import hub
from harness.data.config import DataConfig
from harness.data.dataset import load, read
from harness.testing.datasets import DataSetContract


def row(number, label, **changed):
    return {"img": {"bytes": png(number), "path": None}, "label": label, **changed}


def rows(count, start=0):
    return [row(number, number % 2) for number in range(start, start + count)]


def hub_config(**settings):
    return DataConfig(**{"name": "hub", "path": "someone/pets", **settings})


@pytest.fixture
def publish(monkeypatch):
    """Returns a function that says what the Hub has: rows by split; it returns what was asked for."""
    asked = []

    def published(splits, label=None):
        features = datasets.Features(
            {"img": datasets.Image(), "label": label or datasets.ClassLabel(names=["cat", "dog"])}
        )
        found = {name: datasets.Dataset.from_list(some, features) for name, some in splits.items()}

        def load_dataset(path, revision=None):
            asked.append((path, revision))
            if path != "someone/pets":
                raise FileNotFoundError(f"no such data set: {path}")
            return datasets.DatasetDict(found)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(hub, "_opened", Recent())
        return asked

    return published


class TestHub(DataSetContract):
    """Rows of two splits."""

    @pytest.fixture
    def config(self, publish):
        self.publish = publish
        publish({"train": rows(14), "test": rows(6, 20)})
        return hub_config()

    def change(self, config):
        self.publish({"train": rows(14), "test": [row(99, 0), *rows(5, 21)]})


def test_a_data_set_of_the_hub_is_read_at_its_revision(publish, tmp_path):
    (tmp_path / "x.png").write_bytes(png(9))
    kept = row(9, 1, img={"bytes": None, "path": str(tmp_path / "x.png")})
    asked = publish({"train": rows(9), "test": [kept]})
    dataset = load(hub_config(revision="abc"), 0)
    assert set(asked) == {("someone/pets", "abc")}
    assert dataset.classes == ("cat", "dog")
    (test,) = dataset.splits["test"]
    np.testing.assert_array_equal(dataset.images[test], pixels(9).transpose(2, 0, 1))
    assert dataset.labels[test] == 1


def test_rows_are_read_in_parts(publish, monkeypatch):
    monkeypatch.setattr(hub, "ROWS_A_PART", 4)
    publish({"train": rows(10), "test": rows(3, 20)})
    source = hub.read(hub_config())
    assert [len(list(part.read())) for part in source.parts] == [4, 4, 2, 3]
    assert len({part.identity for part in source.parts}) == 4
    assert [record.where for record in source.records][9:11] == [
        "someone/pets, train, row 9",
        "someone/pets, test, row 0",
    ]


@pytest.mark.parametrize("name", ["valid", "val", "dev", "validation"])
def test_splits_of_the_hub_are_kept_whatever_they_are_called(publish, name):
    publish({"train": rows(20), name: rows(8, 30), "test": rows(1, 50)})
    assert sizes(read(hub_config(), 0).dataset) == {"train": 20, "validation": 8, "test": 1}


def test_a_single_split_is_divided_here(publish):
    publish({"full": rows(20)})
    assert sizes(read(hub_config(), 0).dataset) == {"train": 10, "validation": 4, "test": 6}


def test_splits_may_be_named(publish):
    publish({"fit": rows(10), "more": rows(4, 20), "final": rows(6, 30)})
    config = hub_config(splits={"train": ["fit", "more"], "test": "final"})
    assert sizes(read(config, 0).dataset) == {"train": 10, "validation": 4, "test": 6}
    with pytest.raises(UserError, match=r"data\.splits\.test: no split 'finale'; did you mean 'final'\?"):
        read(hub_config(splits={"train": "fit", "test": "finale"}), 0)
    with pytest.raises(UserError, match=r"data\.splits: 'fit' is given twice"):
        read(hub_config(splits={"train": ["fit", "more"], "test": "fit"}), 0)


def test_what_is_left_out_of_the_hub_is_said(publish):
    publish({"train": rows(20), "extra": rows(5, 60)})
    reading = read(hub_config(), 0)
    assert len(reading.dataset.labels) == 20
    assert reading.notes[0] == "left out split 'extra' (5 images): not called train, validation or test"


def test_test_images_whose_labels_are_withheld_train(publish):
    publish({"train": rows(20), "test": [row(21, -1), row(22, -1)]})
    reading = read(hub_config(), 0)
    assert sizes(reading.dataset) == {"train": 12, "validation": 4, "test": 6}
    assert reading.notes[0] == ("2 images of validation and test have no label: they become training images")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(3, 0, img=None), "row 9: the image cannot be read: it is null"),
        (row(3, 0, img={"bytes": b"x", "path": None}), "row 9: the image cannot be read"),
        (row(3, 0, img={"bytes": None, "path": "/nowhere.png"}), "row 9: the image cannot be read"),
    ],
)
def test_a_bad_example_of_the_hub_is_refused_with_its_place(publish, bad, words):
    publish({"train": [*rows(9), bad]})
    with pytest.raises(UserError) as caught:
        load(hub_config(), 0)
    assert words in str(caught.value)


def test_numbers_without_names_are_labels_too(publish):
    publish({"train": rows(20)}, label=datasets.Value("int64"))
    assert read(hub_config(), 0).dataset.classes == ("0", "1")


def test_a_label_that_is_no_class_number_is_refused_with_its_place(publish):
    publish({"train": [*rows(9), row(9, -3)]}, label=datasets.Value("int64"))
    with pytest.raises(UserError, match=r"someone/pets, train, row 9: label -3 of column 'label' is neither"):
        read(hub_config(), 0)


def test_a_column_that_is_not_there_is_answered_with_the_known(publish):
    publish({"train": rows(1)})
    with pytest.raises(UserError, match="no column 'species'; known: img, label"):
        load(hub_config(label_column="species"), 0)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (FileNotFoundError("no such\ndata set"), "cannot be loaded from the Hub: no such data set"),
        (ConnectionError("Couldn't reach the Hugging Face Hub"), "not in the local cache, "),
        (ConnectionError("Couldn't reach the Hugging Face Hub"), "`hf download someone/pets"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_with_what_to_do(monkeypatch, raised, words):
    def fail(path, revision=None):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(hub, "_opened", Recent())
    with pytest.raises(UserError) as caught:
        load(hub_config(), 0)
    assert str(caught.value).startswith("data.path someone/pets: ")
    assert words in str(caught.value)


def test_the_hub_needs_an_id():
    with pytest.raises(UserError, match=r"data\.path is missing"):
        load(hub_config(path=None), 0)
