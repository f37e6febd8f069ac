"""Pixels in shards: the same as decoding, whichever images are asked for; what changed since planning is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import config, parquet, png
from layouts import classes

from harness.core.artifacts import ArtifactStore
from harness.core.errors import UserError
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data import shards
from harness.data.dataset import Images, load, open_dataset
from harness.data.shards import CHANGED, FILE, StoredImages, pixel_digests

AN_IMAGE = 3 * 6 * 6  # bytes


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of seven images, none held in memory, two files open at once."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 7 * AN_IMAGE + 5)
    monkeypatch.setattr(shards, "IN_MEMORY", 0)
    monkeypatch.setattr(shards, "FILES_OPEN", 2)


@pytest.fixture
def folder(tmp_path):
    return config(classes(tmp_path / "data", {"a": 15, "b": 15}), name="folder")


@pytest.fixture
def stored(small_shards, folder, context):
    """The images of a folder as workers read them, and as they are."""
    images = Images.read(folder, 0)
    return StoredImages(images.stage, context), np.asarray(load(folder, 0).images)


NUMBERS = st.integers(-30, 29)
PLACES = st.none() | st.integers(-35, 35)
INDICES = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=40).map(lambda numbers: np.array(numbers, np.int64)),
    st.lists(NUMBERS, min_size=1, max_size=9),
    st.lists(st.booleans(), min_size=30, max_size=30).map(np.array),
    st.builds(slice, PLACES, PLACES, st.sampled_from([None, 1, 2, 7, -1, -3])),
    st.lists(NUMBERS, min_size=6, max_size=6).map(lambda numbers: np.array(numbers).reshape(2, 3)),
)


@given(index=INDICES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_whatever_is_asked_for_is_what_decoding_gives(stored, index):
    found, expected = stored
    assert found.shape == expected.shape == (30, 3, 6, 6)
    assert len(found._shards) == 5
    given = found[index]
    assert given.dtype == np.uint8
    np.testing.assert_array_equal(given, expected[index])
    assert len(found._files) <= 2


@pytest.mark.parametrize("index", [30, -31, [0, 30], np.array([2, -31])])
def test_images_that_are_not_there_are_no_others(stored, index):
    with pytest.raises(IndexError, match="there are 30 images"):
        stored[0][index]


def test_a_few_images_are_read_once_and_held(folder, context, monkeypatch):
    images = StoredImages(Images.read(folder, 0).stage, context)
    whole = images[:]
    monkeypatch.setattr(images, "_read", None)
    np.testing.assert_array_equal(images[[3, 1]], whole[[3, 1]])


def test_a_copy_in_another_process_opens_its_own_files(stored):
    found, expected = stored
    first = found[0]
    copy = pickle.loads(pickle.dumps(found))
    assert copy._files == {}
    np.testing.assert_array_equal(copy[0], first)
    del copy
    np.testing.assert_array_equal(found[:], expected)


def test_the_data_set_that_workers_open_is_the_planned_one(small_shards, folder, context):
    images = Images.read(folder, 0)
    found, expected = open_dataset(images.stage, context), load(folder, 0)
    np.testing.assert_array_equal(found.images[:], expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.fingerprint == images.dataset.fingerprint == expected.fingerprint


def test_digests_of_pixels_are_those_of_equal_pixels(small_shards, tmp_path, context):
    data = classes(tmp_path / "data", {"a": 10, "b": 10})
    (data / "a" / "7.png").write_bytes((data / "b" / "2.png").read_bytes())
    stage = Images.read(config(data, name="folder"), 0).stage
    assert pixel_digests(stage, context) is None
    for shard in stage.parts:
        context.ensure(shard)
    digests = pixel_digests(stage, context)
    assert digests.shape == (20, 16)
    same = [place for place in range(20) if (digests[place] == digests[12]).all()]
    assert same == [7, 12]


def test_shards_cover_each_image_once(small_shards, folder):
    stage = Images.read(folder, 0).stage
    assert [part.part["images"] for part in stage.parts] == [[0, 7], [7, 14], [14, 21], [21, 28], [28, 30]]
    assert not any(part.local for part in stage.parts)
    assert len({part.key for part in stage.parts}) == 5


def test_what_only_the_planning_machine_can_read_is_decoded_there(small_shards, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1000 * 64)
    stage = Images.read(config(None, name="digits", path=None), 0).stage
    assert [part.local for part in stage.parts] == [True, True]


def test_one_shard_is_decoded_by_the_planning_machine(folder):
    assert [part.local for part in Images.read(folder, 0).stage.parts] == [True]


def change(place):
    place.write_bytes(png(999))


@pytest.mark.parametrize("how", [change, Path.unlink, lambda place: change(place.with_name("00.png"))])
def test_an_image_that_changed_since_the_plan_is_one_line(small_shards, folder, context, how):
    stage = Images.read(folder, 0).stage
    how(Path(folder.path, "b", "3.png"))
    with pytest.raises(UserError, match="the images have changed since the sweep was planned"):
        open_dataset(stage, context).images[23]


@pytest.mark.parametrize("how", [change, Path.unlink])
def test_an_image_that_changed_since_labels_were_stored_is_named(small_shards, folder, context, how):
    stage = Images.read(folder, 0).stage
    context.ensure(stage)
    images = StoredImages(stage, context)
    images[0]
    how(Path(folder.path, "b", "3.png"))
    images[6]
    with pytest.raises(UserError) as caught:
        images[23]
    assert "b/3.png: " in str(caught.value)
    assert CHANGED in str(caught.value) or "the image cannot be read" in str(caught.value)


def test_a_table_that_lost_rows_since_labels_were_stored_is_one_line(small_shards, tmp_path, context):
    tables = config(parquet(tmp_path / "all.parquet", [png(n) for n in range(30)], [0, 1] * 15))
    stage = Images.read(tables, 0).stage
    context.ensure(stage)
    parquet(tmp_path / "all.parquet", [png(n) for n in range(20)], [0, 1] * 10)
    with pytest.raises(UserError, match=CHANGED):
        StoredImages(stage, context)[29]


def test_an_image_that_planning_did_not_decode_is_named_where_it_is(small_shards, folder, context):
    broken = bytearray(png(5, (40, 40)))
    broken[200:230] = bytes(30)
    Path(folder.path, "b", "3.png").write_bytes(broken)
    sized = folder.model_copy(update={"size": 6})
    stage = Images.read(sized, 0).stage
    with pytest.raises(UserError, match=r"b/3\.png: the image cannot be read: "):
        StoredImages(stage, context)[:]
    reading = Images.read(sized.model_copy(update={"skip_unreadable": True}), 0)
    assert len(reading.dataset.labels) == 29


def test_a_damaged_shard_is_made_again(small_shards, folder, context):
    stage = Images.read(folder, 0).stage
    expected = StoredImages(stage, context)[:]
    file = context.file(stage.parts[2], FILE)
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    np.testing.assert_array_equal(StoredImages(stage, context)[:], expected)


def test_images_are_read_from_an_object_store(small_shards, folder):
    context = Context(ArtifactStore(Storage("memory://shards-of-images")), {"run": "test-run"}, ray=False)
    images = StoredImages(Images.read(folder, 0).stage, context)
    np.testing.assert_array_equal(images[:], load(folder, 0).images)
