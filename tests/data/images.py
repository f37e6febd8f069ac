"""Small pictures, and data sets made of them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.core.errors import UserError
from harness.data.config import SOURCES, DataConfig
from harness.data.dataset import SPLITS, load


def pixels(number, size=(6, 6), channels=3):
    """Returns a picture that is different for every number."""
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def png(number, size=(6, 6), channels=3):
    """Returns the picture as the bytes of a PNG file."""
    return encoded(Image.fromarray(pixels(number, size, channels)))


def encoded(image, kind="PNG"):
    """Returns an image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def parquet(path, images, labels, *, names=None, image="image", label="label"):
    """Writes a Parquet file in the Hub's layout; `names` are the classes of its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    structs = [{"bytes": one, "path": None} if isinstance(one, bytes) else one for one in images]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({image: pa.array(structs, struct), label: pa.array(labels, pa.int64())})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def tree(root, places):
    """Writes a picture at each of these places below a folder."""
    for number, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(png(number))


def config(place=None, **settings):
    """Returns the configuration of a data set, by default of Parquet files."""
    return DataConfig(**{"name": "parquet", "path": str(place), **settings})


def records(place, **settings):
    """Returns the records of a data set."""
    return list(SOURCES.load(settings.get("name", "parquet"))(config(place, **settings)).records)


def refused(words, place, **settings):
    """Asserts that a data set is refused, in these words."""
    with pytest.raises(UserError) as caught:
        load(config(place, **settings), 0)
    assert words in str(caught.value)


def sizes(dataset):
    """Returns how many images each split has."""
    return {name: len(dataset.splits[name]) for name in SPLITS}
