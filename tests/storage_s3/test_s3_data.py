"""Images on an object store: read as those of a disk are."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.core.artifacts import ArtifactStore
from harness.core.errors import UserError
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.config import DataConfig
from harness.data.dataset import Images, open_dataset

pytestmark = pytest.mark.slow


def png(number):
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def folder(root):
    """Writes a folder of classes with what systems leave in it."""
    for number in range(20):
        file = root / ("train" if number < 14 else "test") / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    (root / "train" / "a" / ".DS_Store").write_bytes(b"junk")
    return root


def table(root):
    """Writes two files of a table."""
    for split, numbers in (("train", range(14)), ("test", range(14, 20))):
        columns = {
            "image": [{"bytes": png(n), "path": None} for n in numbers],
            "label": [n % 2 for n in numbers],
        }
        root.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), root / f"{split}-00000-of-00001.parquet")
    return root


def uploaded(client, bucket, root):
    for file in root.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), bucket, f"{root.name}/{file.relative_to(root)}")
    return f"s3://{bucket}/{root.name}"


@pytest.mark.parametrize(("name", "write"), [("folder", folder), ("parquet", table)])
def test_images_on_an_object_store_are_those_of_a_disk(client, url, tmp_path, name, write):
    root = write(tmp_path / "images")
    place = uploaded(client, url.split("/")[2], root)
    context = Context(ArtifactStore(Storage(str(tmp_path / "results"))), {}, ray=False)
    read = [Images.read(DataConfig(name=name, path=path), 0) for path in (str(root), place)]
    assert read[0].dataset.fingerprint == read[1].dataset.fingerprint
    dataset = open_dataset(read[1].stage, context)
    assert {split: len(places) for split, places in dataset.splits.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    expected = {np.asarray(Image.open(io.BytesIO(png(n)))).transpose(2, 0, 1).tobytes() for n in range(20)}
    assert {image.tobytes() for image in dataset.images[:]} == expected


def test_a_changed_object_is_noticed_and_an_unchanged_one_is_not_read_again(
    client, url, tmp_path, monkeypatch
):
    bucket = url.split("/")[2]
    place = uploaded(client, bucket, folder(tmp_path / "images"))
    config = DataConfig(name="folder", path=place)
    before = Images.read(config, 0).dataset.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("harness.data.index.look", None)  # whoever looks fails
        assert Images.read(config, 0).dataset.fingerprint == before
    client.put_object(Bucket=bucket, Key="images/train/a/0.png", Body=png(99))
    assert Images.read(config, 0).dataset.fingerprint != before


def test_a_place_that_is_not_there_is_one_line(client, url):
    bucket = url.split("/")[2]
    with pytest.raises(UserError, match="no such folder on the object store"):
        Images.read(DataConfig(name="folder", path=f"s3://{bucket}/{Path('nothing')}"), 0)
