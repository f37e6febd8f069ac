"""Images and labels in two NumPy files of a folder: images.npy, uint8 [N, H, W], and labels.npy [N]."""

import numpy as np

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import Record, Source, place_of


def read(config: DataConfig) -> Source:
    """Reads the two files below `data.path`; classes are numbers."""
    folder = place_of(config, "a folder with images.npy and labels.npy")
    try:
        images, labels = (np.load(folder / f"{name}.npy") for name in ("images", "labels"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.path {config.path}: not images and labels: {error}") from None
    records = [
        Record(image, int(label), None, f"{folder}, image {place}")
        for place, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return Source.of(records, [str(number) for number in range(int(labels.max()) + 1)])
