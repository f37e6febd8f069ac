"""Pictures of images, for people to see what was read or drawn."""

import base64
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.data.label_arrays import class_counts, is_labelled, of_class
from harness.data.shards import pixel_digests
from harness.data.traps import copies, measure

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
    said = copies(digests_ND, dataset.splits, measure(dataset.labels), "pixel for pixel copies")
    # of an object store no more than a shard is downloaded for pictures
    within = None if context.store.storage.local is not None else stage.parts[0].part["images"][1]
    return {"sheet": contact_sheet(name, dataset, within), "warnings": [f"{name}: {one}" for one in said]}


def contact_sheet(name: str, dataset: Dataset, within: int | None = None) -> dict[str, Any]:
    """Returns pictures of the first training images of some classes, spread evenly, as rows of base64 PNGs.

    With `within`, of images among the first so many alone. Images without a label are a row without a name.
    """
    train = dataset.splits["train"]
    shown = train if within is None else train[train < within]
    labels = np.flatnonzero(class_counts(dataset.labels[shown], len(dataset.classes)))
    count = min(CLASSES, len(labels))
    of: list[tuple[str | None, np.ndarray]] = [
        (dataset.classes[label], of_class(dataset.labels, label))
        for label in labels[np.arange(count) * len(labels) // max(1, count)]
    ]
    rows = []
    for title, mine_N in [*of, (None, ~is_labelled(dataset.labels))]:
        chosen = shown[mine_N[shown]][:EACH]
        if not len(chosen):
            continue
        rows.append(
            {
                "name": title,
                "images": int(mine_N[train].sum()),
                "picture": grid(np.asarray(dataset.images[chosen]), EACH),
            }
        )
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
