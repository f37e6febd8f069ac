"""The contract of a data set: a module with `read(config: DataConfig) -> Source`, see `harness.data.source`.

Subclass `DataSetContract` and define the fixture `config`: a `DataConfig` that names the registered source and points
to a small data set, of about twenty images in at least two classes, that the test has written to `tmp_path`. If its
content can be changed, define `change` too.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import UserError
from harness.data import decoding
from harness.data.config import SOURCES, DataConfig
from harness.data.dataset import SPLITS, how_decoded, load, readable
from harness.data.decoding import encoded
from harness.data.index import Index, look_at
from harness.data.source import Label, Part, Record, Source
from harness.testing.checks import random_state_left_alone, seed_everything

NOWHERE = "/nowhere/no-such-data"


def read(config: DataConfig) -> Source:
    """Returns what the source reads."""
    source: Source = SOURCES.load(config.name)(config)
    return source


def decoded(records: Sequence[Record], config: DataConfig) -> np.ndarray:
    """Returns the pixels of records, uint8 [N, C, H, W], as those of a data set of nothing else."""
    part = Part(partial(list, records))
    index = Index(look_at(part, False), [len(records)])
    pixels = how_decoded(index, readable(index, config, []), config, Source([part], None), [])
    return np.stack(list(decoding.decoded(((encoded(one), one.where) for one in records), pixels)))


def refusal(config: DataConfig) -> str:
    """Returns the message of the `UserError` that reading must raise."""
    with pytest.raises(UserError) as caught:
        list(read(config).records)
    return str(caught.value)


def _number(label: Label | tuple[Label, ...] | None, classes: Sequence[str]) -> int | tuple[int, ...]:
    """Returns a class number, or those of a list of labels in order; -1 for no label."""
    if label is None:
        return -1
    if isinstance(label, tuple):
        return tuple(sorted({classes.index(one) if isinstance(one, str) else one for one in label}))
    return classes.index(label) if isinstance(label, str) else label


def _held(label: np.ndarray) -> int | tuple[int, ...]:
    """Returns what a data set holds as an image's label, in the form of `_number`."""
    if not label.ndim:
        return int(label)
    return -1 if label[0] < 0 else tuple(np.flatnonzero(label).tolist())


class DataSetContract:
    """What every data set must do. A subclass defines the fixture `config`."""

    @pytest.fixture
    def config(self) -> DataConfig:
        """The data set to test."""
        raise NotImplementedError(
            "define the fixture `config`, which returns the DataConfig of a small data set"
        )

    def change(self, config: DataConfig) -> None:
        """Changes the pixels of one image of the data set in place. Skipped by default."""
        pytest.skip("this data set cannot be changed; define `change` if it can")

    def test_it_is_registered(self, config: DataConfig) -> None:
        assert config.name in SOURCES.names()
        assert callable(SOURCES.load(config.name)), "a data set must be a function read(config) -> Source"
        assert config.display_name, "tables need a name for the data set"

    def test_classes_are_distinct_names(self, config: DataConfig) -> None:
        classes = list(load(config, 0).classes)
        assert len(classes) >= 2, "the data set of the test needs at least two classes"
        assert all(isinstance(name, str) and name for name in classes), "class names must be text"
        assert len(set(classes)) == len(classes), "class names must differ"

    def test_labels_are_places_in_the_list_of_classes(self, config: DataConfig) -> None:
        source = read(config)
        for record in source.records:
            if record.label is None or source.classes is None:
                continue
            if isinstance(record.label, str):
                assert record.label in source.classes, (
                    f"{record.where}: label {record.label!r} is not a class"
                )
            else:
                assert isinstance(record.label, int), (
                    f"{record.where}: a label must be an int, a name or None"
                )
                assert 0 <= record.label < len(source.classes), (
                    f"{record.where}: label {record.label} is not a class"
                )

    def test_splits_have_known_names(self, config: DataConfig) -> None:
        splits = Counter(record.split for record in read(config).records)
        assert set(splits) <= {*SPLITS, None}, (
            f"a split must be one of {', '.join(SPLITS)} or None, not {set(splits)}"
        )
        assert splits["train"] or splits[None], "there must be training images"

    def test_images_are_encoded_files_or_grey_levels(self, config: DataConfig) -> None:
        for record in read(config).records:
            if isinstance(record.image, bytes | Path | str):
                continue
            assert isinstance(record.image, np.ndarray), (
                f"{record.where}: an image must be bytes, a path or an array"
            )
            assert record.image.dtype == np.uint8, f"{record.where}: an array must be uint8"
            shape = record.image.shape
            assert len(shape) == 2 or shape[2:] == (3,), f"{record.where}: [H, W] or [H, W, 3], not {shape}"

    def test_messages_can_name_each_image(self, config: DataConfig) -> None:
        places = [record.where for record in read(config).records]
        assert all(place and "\n" not in place for place in places), "`where` must be one line"
        assert len(set(places)) == len(places), "`where` must be unique to each image"

    def test_the_order_is_the_same_every_time(self, config: DataConfig) -> None:
        """An image's index identifies its noise draws and, with the seed, its split."""
        found = []
        for state in (0, 1):
            seed_everything(state)
            found.append(read(config))
        first, second = found
        assert first.classes == second.classes, "classes must come in the same order"
        counts = [len(list(source.records)) for source in found]
        assert counts[0] == counts[1], f"reading twice must give the same number of images, not {counts}"
        pixels = [decoded(list(source.records), config) for source in found]
        for number, (one, other) in enumerate(zip(first.records, second.records, strict=True)):
            assert one[1:] == other[1:], (
                f"images must come in the same order: first {one.where}, then {other.where}"
            )
            same = pixels[0][number] == pixels[1][number]
            assert np.all(same), f"{one.where}: reading twice gives different images"

    def test_it_leaves_the_global_random_state_alone(self, config: DataConfig) -> None:
        with random_state_left_alone("reading a data set"):
            read(config)

    @pytest.mark.parametrize("channels", [None, 1, 3])
    def test_images_are_decoded(self, config: DataConfig, channels: int | None) -> None:
        records = list(read(config).records)
        images = decoded(records, config.model_copy(update={"channels": channels}))
        assert images.dtype == np.uint8
        assert images.shape[0] == len(records)
        assert images.shape[1] in ((channels,) if channels else (1, 3)), "images must be [N, C, H, W]"
        assert images.shape[2] == images.shape[3], "images must be square; set `size` in the test's config"

    def test_pixels_and_labels_stay_together(self, config: DataConfig) -> None:
        """Through reading, splitting and decoding, with multiplicity."""
        dataset = load(config, 0)
        config = config.model_copy(update={"channels": dataset.channels})
        records = list(read(config).records)
        expected = Counter(
            (image.tobytes(), _number(record.label, dataset.classes))
            for image, record in zip(decoded(records, config), records, strict=True)
        )
        pairs = zip(np.asarray(dataset.images), dataset.labels, strict=True)
        found = Counter((image.tobytes(), _held(label)) for image, label in pairs)
        assert found == expected

    def test_the_sources_splits_are_kept(self, config: DataConfig) -> None:
        named = Counter(record.split for record in read(config).records)
        dataset = load(config, 0)
        together = np.concatenate([dataset.splits[name] for name in SPLITS])
        assert sorted(together.tolist()) == list(range(len(dataset.images))), (
            "every image must be in exactly one split"
        )
        if named["test"]:
            assert len(dataset.splits["test"]) == named["test"], "the source's own test split must be kept"
        if named["validation"]:
            assert len(dataset.splits["validation"]) == named["validation"]

    def test_the_same_content_has_the_same_fingerprint(self, config: DataConfig) -> None:
        assert load(config, 0).fingerprint == load(config, 0).fingerprint
        few = config.model_copy(update={"classes": list(load(config, 0).classes)[::-1]})
        assert load(few, 0).fingerprint != load(config, 0).fingerprint, (
            "the order of classes is part of the content"
        )

    def test_other_content_has_another_fingerprint(self, config: DataConfig) -> None:
        before = load(config, 0).fingerprint
        self.change(config)
        assert load(config, 0).fingerprint != before, (
            "an image changed but the fingerprint did not: the source must read the current content"
        )

    def test_a_path_that_does_not_exist_is_refused_in_one_line(self, config: DataConfig) -> None:
        words = refusal(config.model_copy(update={"path": NOWHERE}))
        assert NOWHERE in words, f"the message must name the given path: {words}"
        assert "\n" not in words

    def test_a_missing_path_is_refused_in_one_line(self, config: DataConfig) -> None:
        if config.path is None:
            pytest.skip("this data set needs no path")
        words = refusal(config.model_copy(update={"path": None}))
        assert "data.path" in words, f"the message must name the missing key: {words}"
