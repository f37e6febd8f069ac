"""A folder of images by class: PATH/CLASS/IMAGE, or PATH/SPLIT/CLASS/IMAGE."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import Record, Source, place_of
from harness.data.splits import split_of

JUNK = (
    "__macosx",
    "thumbs.db",
    "desktop.ini",
)  # what systems leave in folders, like names that begin with a dot


class _Part(NamedTuple):
    """A folder whose subfolders are the classes."""

    folder: Path
    split: str | None


def read(config: DataConfig) -> Source:
    """Lists the images in `data.path`; class names are the sorted names of the folders.

    Raises `UserError` for a split without class folders, and for other folders beside those of splits.
    """
    root = place_of(config, "a folder with one subfolder per class")
    if not root.is_dir():
        raise UserError(f"data.path {config.path}: {'not a folder' if root.exists() else 'does not exist'}")
    below = _folders(root)
    splits = [_Part(place, split) for place in below if (split := split_of(place.name))]
    if splits and len(splits) < len(below):
        known = _listed([one.folder.name for one in splits])
        others = _listed([place.name for place in below if split_of(place.name) is None])
        raise UserError(
            f"data.path {config.path}: has folders of splits ({known}) and other folders ({others}) side by side; "
            "move these elsewhere, or the splits into one folder"
        )
    parts = splits or [_Part(root, None)]
    classes = sorted({place.name for part in parts for place in _folders(part.folder)})
    for part in splits:
        if not _folders(part.folder) and _images(part.folder):
            raise UserError(
                f"{part.folder}: holds images, but no folder per class; sort them into "
                f"{part.folder.name}/CLASS/IMAGE, or move the folder elsewhere"
            )
    if not classes:
        raise UserError(
            f"data.path {config.path}: contains no folders; expected one folder of images per class"
        )
    skipped: Counter[str] = Counter()
    records = list(_records(parts, classes, skipped))
    notes = [f"skipped {sum(skipped.values())} files that are no images by their names ({_counted(skipped)})"]
    return Source(records, classes, notes if skipped else [])


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if names[5:] else "")


def _counted(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in skipped.most_common(5))


def _kept(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in JUNK


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if _kept(path.name) and path.is_dir())


def _images(place: Path) -> bool:
    endings = Image.registered_extensions()
    return any(path.suffix.lower() in endings and _kept(path.name) for path in place.iterdir())


def _records(parts: list[_Part], classes: list[str], skipped: Counter[str]) -> Iterator[Record]:
    endings = Image.registered_extensions()
    for part in parts:
        for place in _folders(part.folder):
            for file in _files(place):
                if file.suffix.lower() in endings:
                    yield Record(file, classes.index(place.name), part.split, str(file))
                else:
                    skipped[file.suffix.lower()] += 1


def _files(place: Path) -> list[Path]:
    """Returns the files below a folder, links followed, without what systems leave there."""
    found: list[Path] = []
    seen = set()
    for folder, folders, files in os.walk(place, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link that leads back
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = [name for name in folders if _kept(name)]
        found += [Path(folder) / name for name in files if _kept(name)]
    return sorted(found)
