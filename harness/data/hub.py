"""A data set on the Hugging Face Hub, by its id. Needs the extra `hub`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.parquet import LABEL_NAMES
from harness.data.source import Record, Source
from harness.data.splits import split_at_start

WITHHELD = (
    -1
)  # the label of all images in a split whose labels are not published, such as ImageNet's test split


def read(config: DataConfig) -> Source:
    """Downloads `data.path` at `data.revision`; data sets that need their own code are refused."""
    try:
        import datasets
    except ImportError:
        raise UserError("data set 'hub' needs the extra hub: pip install 'harness[hub]'") from None
    if config.path is None:
        raise UserError("data.path is missing: data set 'hub' needs an id such as uoft-cs/cifar10")
    try:
        splits = datasets.load_dataset(config.path, revision=config.revision)
    except ConnectionError:
        raise UserError(
            f"data.path {config.path}: not in the local cache, and the Hub cannot be reached; go online once, or "
            f"copy it here (`hf download {config.path} --repo-type dataset --local-dir FOLDER` elsewhere) and set "
            "data.name = parquet and data.path = FOLDER"
        ) from None
    except Exception as error:  # the library has many errors: missing, gated, not a data set
        raise UserError(f"data.path {config.path}: cannot be loaded from the Hub: {error}") from None
    features = next(iter(splits.values())).features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = config.image_column or next(iter(images), None)
    label = config.label_column or next((name for name in LABEL_NAMES if name in features), None)
    if image is None or label is None or image not in images or label not in features:
        raise UserError(
            f"data.path {config.path}: set data.image_column and data.label_column; "
            f"known: {', '.join(features)}"
        )
    names = getattr(features[label], "names", None)
    if names is None:
        raise UserError(f"data.path {config.path}: column {label!r} has no class names")
    raw, notes = {}, []
    for name, split in splits.items():
        if all(number == WITHHELD for number in split[label]):
            notes.append(f"left out split {name!r} ({len(split)} images): its labels are not published")
        elif len(splits) > 1 and split_at_start(name) is None:
            notes.append(
                f"left out split {name!r} ({len(split)} images): not called train, validation or test, or like them"
            )
        else:
            raw[name] = split.cast_column(image, datasets.Image(decode=False))
    return Source(_records(raw, image, label, len(names), config.path), names, notes)


def _records(splits: dict[str, Any], image: str, label: str, classes: int, path: str) -> Iterator[Record]:
    for name, split in splits.items():
        for row, example in enumerate(split):
            where = f"{path}, {name}, row {row}"
            picture, number = example[image], example[label]
            if picture is None or picture["bytes"] is picture["path"] is None:
                raise UserError(f"{where}: the image cannot be read: it is null")
            if number is None or not 0 <= number < classes:
                raise UserError(f"{where}: label {number} is not between 0 and {classes - 1}")
            try:
                content = picture["bytes"] or Path(picture["path"]).read_bytes()
            except OSError as error:
                raise UserError(f"{where}: the image cannot be read: {error}") from None
            yield Record(content, number, split_at_start(name), where)
