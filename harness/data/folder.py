"""A folder of images by class, on a disk or an object store: PATH/CLASS/IMAGE, or PATH/SPLIT/CLASS/IMAGE."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from PIL import Image

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.core.recent import Recent
from harness.data.config import DataConfig
from harness.data.files import Entry, Folder, identity
from harness.data.parallel import in_parallel
from harness.data.source import Part, Record, Source
from harness.data.splits import is_split, split_of

IMAGES_A_PART = 512


class Classes(NamedTuple):
    """A folder whose subfolders are the classes, and the split that it is."""

    folder: Folder
    split: str | None


class Listed(NamedTuple):
    """The images of one class in one split."""

    parts: list[str | None]  # the identities of parts of `IMAGES_A_PART` images
    skipped: Counter[str]  # files that are no images, by the ending of their names

    @property
    def identity(self) -> str:
        """The identity of all parts together."""
        return " ".join(map(str, self.parts))


def read(config: DataConfig) -> Source:
    """Lists the images in `data.path`; class names are the sorted names of the folders.

    Raises `UserError` for a split without class folders, and for other folders beside those of splits.
    """
    root = Folder.of(config, "a folder with one subfolder per class")
    places, notes = _places(root, config)
    named = {place.folder.root: place.folder.folders() for place in places}
    classes = sorted({name for names in named.values() for name in names})
    for place in places:
        if not named[place.folder.root] and _holds_images(place.folder):
            raise UserError(
                f"{place.folder.root}: holds images, but no folder per class; sort them into CLASS/IMAGE inside it, "
                "list them with their labels in a CSV or JSON Lines file, such as metadata.jsonl (data.name: csv or "
                "json), or move the folder elsewhere"
            )
    if not classes:
        raise UserError(
            f"data.path {config.path}: contains no folders; expected one folder of images per class"
        )
    beside = sum(_count_images(place.folder) for place in places)
    if beside:
        notes.append(f"left out {beside} images beside the folders of classes")
    wanted = [
        (place.folder.below(name), place.split, name) for place in places for name in named[place.folder.root]
    ]
    found = in_parallel(_listed, [(folder,) for folder, _, _ in wanted])
    parts = [
        Part(
            partial(_records, folder, listed.identity, number * IMAGES_A_PART, name, split),
            f"{known} {split}" if known else None,
        )
        for (folder, split, name), listed in zip(wanted, found, strict=True)
        for number, known in enumerate(listed.parts)
    ]
    return Source(parts, classes, notes + _left_out(classes, [name for _, _, name in wanted], found))


def _left_out(classes: Sequence[str], names: Sequence[str], found: Sequence["Listed"]) -> list[str]:
    """Returns a sentence on files that are no images, and one on classes without any."""
    notes = []
    skipped = sum((listed.skipped for listed in found), Counter[str]())
    if skipped:
        notes.append(
            f"skipped {sum(skipped.values())} files that are no images by their names ({_counted(skipped)})"
        )
    filled = {name for name, listed in zip(names, found, strict=True) if listed.parts}
    empty = [name for name in classes if name not in filled]
    if empty and filled:
        notes.append(f"{len(empty)} folders of classes hold no images ({_named(empty)})")
    return notes


def _places(root: Folder, config: DataConfig) -> tuple[list[Classes], list[str]]:
    """Returns the folders that hold the classes, by split, and what was assumed."""
    if config.splits is not None:
        found = []
        for split, name in config.named_splits:
            folder = root.below(name)
            if not folder.exists():
                near = did_you_mean(name, root.folders())
                raise UserError(f"data.splits.{split}: no folder {name!r} in {root.root}; {near}")
            found.append(Classes(folder, split))
        refuse_duplicates([place.folder.root for place in found], "data.splits")
        return found, []
    notes: list[str] = []
    below = root.folders()
    if len(below) == 1 and not _holds_images(root) and split_of(below[0]) is None:
        inner = root.below(below[0])
        inside = inner.folders()
        if inside and not _holds_images(inner):  # as archives unpack: NAME/NAME/train
            notes.append(f"the classes lie one folder further down, in {below[0]}")
            root, below = inner, inside
    splits = [name for name in below if split_of(name)]
    others = [name for name in below if not split_of(name)]
    plain = any(is_split(name) for name in splits)
    if not plain and (others or not any(root.below(name).folders() for name in splits)):
        splits = []  # classes whose names contain such a word: "test_tube"
    elif len(splits) == 1 and len(others) > 1 and all(_of_images(root.below(name)) for name in below):
        notes.append(f"{splits[0]!r} is a class, since it holds images like the folders beside it")
        splits = []  # vehicles: bus, car, train
    if splits and others:
        raise UserError(
            f"data.path {config.path}: has folders of splits ({_named(splits)}) and other folders ({_named(others)}) "
            "side by side; move these elsewhere, or name the splits in data.splits"
        )
    return [Classes(_unwrapped(root.below(name), name), split_of(name)) for name in splits] or [
        Classes(root, None)
    ], notes


def _unwrapped(folder: Folder, name: str) -> Folder:
    """Returns the folder of a split, or the only one in it if that repeats its name: seg_train/seg_train/CLASS."""
    return folder.below(name) if folder.folders() == [name] else folder


def _named(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if names[5:] else "")


def _counted(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in skipped.most_common(5))


@lru_cache(1)
def endings() -> frozenset[str]:
    """Returns the endings of the names of images, such as ".jpg"."""
    return frozenset(Image.registered_extensions())


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _holds_images(folder: Folder) -> bool:
    return _count_images(folder) > 0


def _of_images(folder: Folder) -> bool:
    """Returns whether a folder holds images and no folders."""
    return not folder.folders() and _holds_images(folder)


def _count_images(folder: Folder) -> int:
    return sum(_ending(name) in endings() for name in folder.names())


def _listed(folder: Folder) -> Listed:
    entries = folder.entries()
    images = _images(entries)
    parts = [
        identity(folder.root, images[begin : begin + IMAGES_A_PART])
        for begin in range(0, len(images), IMAGES_A_PART)
    ]
    others = () if len(images) == len(entries) else (_ending(entry.name) for entry in entries)
    return Listed(parts, Counter(ending for ending in others if ending not in endings()))


def _images(entries: Sequence[Entry]) -> list[Entry]:
    known = endings()
    return [entry for entry in entries if _ending(entry.name) in known]


def _records(folder: Folder, listing: str, begin: int, label: str, split: str | None) -> Iterator[Record]:
    """Yields the images of a part. A folder stays listed for the next part, which is mostly of the same folder."""
    images = _files.get((folder.root, listing), lambda: _images(folder.entries()))
    for entry in images[begin : begin + IMAGES_A_PART]:
        path = folder.path(entry.name)
        yield Record(path, label, split, str(path))


_files = Recent[list[Entry]](2)
