"""Pictures of images, for people to see what was read or drawn."""

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.data.shards import pixel_digests
from harness.data.traps import copies

CELL = 64  # approximate size of each image in pixels
CLASSES, EACH = 12, 8  # shown of a data set: classes, and images of each


def decoded_facts(name: str, stage: Stage, context: Context) -> dict[str, Any] | None:
    """Returns what is known once all images of a data set are decoded; None before that.

    {"sheet": pictures of some images by class, "warnings": images with the pixels of a training image}.
    """
    digests_ND = pixel_digests(stage, context)
    if digests_ND is None:
        return None
    dataset = open_dataset(stage, context)
    said = copies(digests_ND, dataset.splits, "pixel for pixel copies")
    return {"sheet": contact_sheet(name, dataset), "warnings": [f"{name}: {one}" for one in said]}


def contact_sheet(name: str, dataset: Dataset) -> dict[str, Any]:
    """Returns pictures of the first training images of some classes, spread evenly, as rows of base64 PNGs."""
    train = dataset.splits["train"]
    labels_N = dataset.labels[train]
    rows = []
    count = min(CLASSES, len(dataset.classes))
    for number in (place * len(dataset.classes) // count for place in range(count)):
        chosen = train[labels_N == number]
        if len(chosen):
            picture = grid(np.asarray(dataset.images[chosen[:EACH]]), EACH)
            rows.append({"name": dataset.classes[number], "images": len(chosen), "picture": picture})
    without = train[labels_N < 0]
    if len(without):
        picture = grid(np.asarray(dataset.images[without[:EACH]]), EACH)
        rows.append({"name": None, "images": len(without), "picture": picture})
    return {"data": name, "classes": len(dataset.classes), "rows": rows}


def grid(images_NCHW: np.ndarray, across: int | None = None) -> str:
    """Returns a grid of images as a base64 PNG: one pixel between images, each about `CELL` pixels in size.

    It is about as wide as high, or `across` images wide.

    Small images are enlarged by an integer factor without interpolation, so that no blur hides a sample's pixels.
    """
    n, channels, height, width = images_NCHW.shape
    across = across or math.isqrt(n - 1) + 1
    scale = CELL / max(height, width)
    scale = max(1, int(scale)) if scale >= 1 else scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    sheet = Image.new(
        "RGB", (across * (size[0] + 1) - 1, -(-n // across) * (size[1] + 1) - 1), (255, 255, 255)
    )
    for place, image_CHW in enumerate(images_NCHW):
        image_HWC = np.broadcast_to(image_CHW, (3, height, width)) if channels == 1 else image_CHW[:3]
        picture = Image.fromarray(np.ascontiguousarray(image_HWC.transpose(1, 2, 0))).resize(size, how)
        sheet.paste(picture, ((place % across) * (size[0] + 1), (place // across) * (size[1] + 1)))
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode()
