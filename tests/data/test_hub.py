"""A data set on the Hub: real data sets of the library `datasets`, with the download replaced."""

import numpy as np
import pytest
from images import pixels, png

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import load
from harness.testing.datasets import DataSetContract


def row(number, label, **changed):
    return {"img": {"bytes": png(number), "path": None}, "label": label, **changed}


def hub_config(**settings):
    return DataConfig(**{"name": "hub", "path": "someone/pets", **settings})


class TestHub(DataSetContract):
    """The Hub, with a module in place of its library."""

    @pytest.fixture
    def config(self, hub):
        self.splits = {
            "train": [row(number, number % 2) for number in range(14)],
            "test": [row(number, number % 2) for number in range(20, 26)],
        }
        hub(self.splits)
        return hub_config()

    def change(self, config):
        self.splits["test"][0] = row(99, 0)


def test_a_split_of_the_hub_whose_labels_are_withheld_is_left_out(hub):
    hub({"train": [row(number, number % 2) for number in range(20)], "test": [row(21, -1), row(22, -1)]})
    dataset = load(hub_config(), 0)
    assert sum(len(chosen) for chosen in dataset.splits.values()) == 20
    assert len(dataset.splits["test"])


def test_a_data_set_of_the_hub_is_read_at_its_revision(hub, tmp_path):
    (tmp_path / "x.png").write_bytes(png(9))
    kept = row(9, 1, img={"bytes": None, "path": str(tmp_path / "x.png")})
    asked = hub({"train": [row(number, number % 2) for number in range(9)], "test": [kept]})
    dataset = load(hub_config(revision="abc"), 0)
    assert asked == {"path": "someone/pets", "revision": "abc"}
    assert dataset.classes == ("cat", "dog")
    (test,) = dataset.splits["test"]
    np.testing.assert_array_equal(dataset.images[test], pixels(9).transpose(2, 0, 1))
    assert dataset.labels[test] == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(3, -1), "someone/pets, train, row 9: label -1 is not between 0 and 1"),
        (row(3, 5), "row 9: label 5 is not between 0 and 1"),
        (row(3, None), "row 9: label None is not between 0 and 1"),
        (row(3, 0, img=None), "row 9: the image cannot be read: it is null"),
        (row(3, 0, img={"bytes": None, "path": None}), "row 9: the image cannot be read: it is null"),
        (row(3, 0, img={"bytes": b"x", "path": None}), "row 9: the image cannot be read"),
        (row(3, 0, img={"bytes": None, "path": "/nowhere.png"}), "row 9: the image cannot be read"),
    ],
)
def test_a_bad_example_of_the_hub_is_refused_with_its_place(hub, bad, words):
    hub({"train": [*(row(number, number % 2) for number in range(9)), bad]})
    with pytest.raises(UserError) as caught:
        load(hub_config(), 0)
    assert words in str(caught.value)


def test_what_the_hub_does_not_have_is_one_line(hub):
    hub(FileNotFoundError("no such\ndata set"))
    with pytest.raises(
        UserError, match=r"data\.path someone/pets: cannot be loaded from the Hub: no such data set"
    ):
        load(hub_config(), 0)


def test_a_hub_that_cannot_be_reached_is_one_line_with_what_to_do(hub):
    hub(ConnectionError("Couldn't reach the Hugging Face Hub"))
    words = (
        r"data\.path someone/pets: not in the local cache, .*; go online once, or .*`hf download someone/pets"
    )
    with pytest.raises(UserError, match=words):
        load(hub_config(), 0)


def test_a_data_set_of_the_hub_without_labels_or_images_is_refused(hub):
    hub({"train": [row(0, 0)]}, names=None)
    with pytest.raises(UserError, match="column 'label' has no class names"):
        load(hub_config(), 0)
    hub({"train": [row(0, 0)]})
    with pytest.raises(UserError, match=r"set data\.image_column and data\.label_column; known: img, label"):
        load(hub_config(label_column="species"), 0)


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the extra hub: pip install 'harness\[hub\]'"):
        load(hub_config(), 0)


def test_the_hub_needs_an_id(hub):
    hub({})
    with pytest.raises(UserError, match=r"data\.path is missing"):
        load(hub_config(path=None), 0)
