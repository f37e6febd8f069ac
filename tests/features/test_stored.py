"""Stored features are read from their shards as arrays would be, as much as is asked for and no more."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from harness.core.artifacts import ArtifactStore
from harness.core.stages import Code, Context, Stage
from harness.core.storage import Storage
from harness.features import stored
from harness.features.extract import FILE
from harness.features.lazy import in_memory
from harness.features.stored import pooled, stored_features

CODE = Code("numbers", 1, "test_stored:make_numbers")
SHAPE = (3, 2, 2)


def make_numbers(stage, folder, context):
    """Writes a shard: each number is its place in the whole, except for those to be spoilt."""
    begin, end = stage.part["images"]
    size = int(np.prod(SHAPE))
    x = np.arange(begin * size, end * size, dtype=np.float32).reshape(-1, *SHAPE)
    for image in stage.config["spoilt"]:
        if begin <= image < end:
            x[image - begin, 1, 0, 1] = np.inf
    save_file({"before": np.zeros(5, np.float32), "features": x}, folder / FILE)


def shards_of(cuts, spoilt=()):
    return [
        Stage("numbers", CODE, {"spoilt": list(spoilt)}, part={"images": [begin, end]})
        for begin, end in zip([0, *cuts[:-1]], cuts, strict=True)
    ]


def numbers(count):
    return np.arange(count * np.prod(SHAPE), dtype=np.float32).reshape(-1, *SHAPE)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store whose artifacts outlive a test."""
    store = ArtifactStore(Storage(str(tmp_path_factory.mktemp("kept"))))
    return Context(store, {}, ray=False, accelerators=False)


@given(st.lists(st.integers(0, 22), max_size=12))
def test_any_images_of_any_shards_are_those_of_the_array(kept, chosen):
    x = stored_features(shards_of([4, 5, 16, 23]), kept)
    assert x.shape == (23, *SHAPE)
    np.testing.assert_array_equal(x[np.array(chosen, int)], numbers(23)[chosen])


def test_a_run_of_images_takes_one_read_for_each_shard(kept, monkeypatch):
    x = stored_features(shards_of([4, 5, 16, 23]), kept)
    sizes = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: sizes.append(real(*given)) or sizes[-1])
    x[3:14]
    assert [size // (4 * 12) for size in sizes] == [1, 1, 9]


def test_a_short_read_is_continued(kept, monkeypatch):
    x = stored_features(shards_of([4, 5, 16, 23]), kept)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, left, at: real(file, [left[0][:50]], at))
    np.testing.assert_array_equal(x[:], numbers(23))


def test_a_file_that_ends_too_early_is_an_error(kept, monkeypatch):
    x = stored_features(shards_of([4, 5, 16, 23]), kept)
    monkeypatch.setattr(os, "preadv", lambda *given: 0)
    with pytest.raises(EOFError, match="shorter than its header"):
        x[:2]


def test_features_that_are_not_finite_are_counted_and_named_once(kept, monkeypatch):
    with pytest.raises(FloatingPointError, match="2 of 16 images' features are not finite"):
        stored_features(shards_of([4, 5, 16], spoilt=[2, 9]), kept)
    sound = shards_of([7, 12])
    stored_features(sound, kept)
    monkeypatch.setattr(stored, "refuse_infinite_batches", None)
    stored_features(sound, kept)  # for another pool or head, they are not checked again


def test_what_the_machines_cache_has_dropped_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    remote = Context(ArtifactStore(Storage("memory://stored")), {}, ray=False, accelerators=False)
    (shard,) = shards_of([6])
    x = stored_features([shard], remote)
    remote.file(shard, FILE).unlink()
    np.testing.assert_array_equal(x[2:5], numbers(6)[2:5])
    remote.store.storage.remove("")


def test_maps_are_averaged_and_follow_each_other_along_the_channels(kept):
    x = stored_features(shards_of([4, 9]), kept)
    found = pooled([x, x], 1)
    means = numbers(9).mean((2, 3), keepdims=True)
    assert found.shape == (9, 6, 1, 1)
    np.testing.assert_allclose(in_memory(found), np.concatenate([means, means], 1), rtol=1e-6)
