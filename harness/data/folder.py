"""A folder of images by class: PATH/CLASS/IMAGE, or PATH/SPLIT/CLASS/IMAGE."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import Record, Source, place_of

SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def read(config: DataConfig) -> Source:
    """Lists the images in `data.path`; class names are the sorted names of the folders."""
    root = place_of(config, "a folder with one subfolder per class")
    if not root.is_dir():
        raise UserError(f"data.path {config.path}: {'not a folder' if root.exists() else 'does not exist'}")
    below = _folders(root)
    splits = [place for place in below if place.name.lower() in SPLITS]
    roots: list[tuple[Path, str | None]] = [(place, SPLITS[place.name.lower()]) for place in splits]
    roots = roots or [(root, None)]
    classes = sorted({place.name for parent, _ in roots for place in _folders(parent)})
    if not classes:
        raise UserError(
            f"data.path {config.path}: contains no folders; expected one folder of images per class"
        )
    return Source(_records(roots, classes), classes)


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _records(roots: list[tuple[Path, str | None]], classes: list[str]) -> Iterator[Record]:
    endings = Image.registered_extensions()
    for parent, split in roots:
        for place in _folders(parent):
            for file in sorted(place.rglob("*")):
                if file.suffix.lower() in endings and file.is_file():
                    yield Record(file.read_bytes(), classes.index(place.name), split, str(file))
