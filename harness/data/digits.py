"""The handwritten digits that come with scikit-learn: 1797 grey images of 8x8 pixels, ten classes."""

import numpy as np
from sklearn.datasets import load_digits

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import Record, Source


def read(config: DataConfig) -> Source:
    """Reads the built-in data set; its 17 grey levels are scaled to 0..255."""
    if config.path is not None:
        raise UserError(
            f"data.path {config.path}: data set 'digits' reads no files; "
            "set data.name to folder, parquet, hub or another; docs/data.md lists them"
        )
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    records = [
        Record(image, int(label), None, f"digit {index}")
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True))
    ]
    return Source.of(records, [str(name) for name in digits.target_names])
