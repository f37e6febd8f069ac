"""Small pictures, and data sets made of them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


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
