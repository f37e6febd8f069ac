"""Images and labels in one NumPy archive: arrays `images` uint8 [N, H, W] and `labels` [N]."""

import numpy as np

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import Record, Source, place_of


def read(config: DataConfig) -> Source:
    """Reads the archive at `data.path`; classes are numbers."""
    path = place_of(config, "an .npz file")
    try:
        with np.load(path) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"data.path {config.path}: not an archive of images and labels: {error}") from None
    records = [
        Record(image, int(label), None, f"{path}, image {place}")
        for place, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return Source(records, [str(number) for number in range(int(labels.max()) + 1)])
