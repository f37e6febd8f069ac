"""What a source of images returns: records, in parts that can be read apart from each other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from harness.core.errors import UserError
from harness.core.paths import path_of
from harness.data.config import DataConfig

Label = int | str


class Record(NamedTuple):
    """One image as stored in the source."""

    # an encoded file: its bytes, path or URL; or grey levels 0..255 as uint8 [H, W] or [H, W, 3]
    image: bytes | Path | str | np.ndarray
    # a place among the source's classes, the name of one, several of these (none: of no class), or None: not labelled
    label: Label | tuple[Label, ...] | None
    split: str | None  # "train", "validation", "test", or None if the source has no splits
    where: str  # how to find it, for messages: one line, unique to the image


class Part(NamedTuple):
    """Records that are read together: those of a file, or of some files of a folder."""

    read: Callable[[], Iterable[Record]]  # can be pickled; its records come in the same order every time
    # of the names, sizes and times of its files: while it is the same, what is known of its images is not read again
    identity: str | None = None


class Source(NamedTuple):
    """A readable data set.

    Records come in the same order whenever the same content is read: an image's index identifies its noise draws.
    What cannot be read raises a `UserError` that names its location, in `read` or while records are iterated.
    """

    parts: Sequence[Part]
    classes: Sequence[str] | None  # None: the names, or numbers, that occur as labels
    notes: Sequence[str] = ()  # what was left out, one sentence each
    everywhere: bool = (
        True  # whether other machines may read it; else images are decoded where the sweep is planned
    )

    @classmethod
    def of(cls, records: Sequence[Record], classes: Sequence[str] | None, notes: Sequence[str] = ()) -> Self:
        """Returns a small source whose records are all in memory."""
        return cls([Part(partial(list, records))], classes, notes, everywhere=False)

    @property
    def records(self) -> Iterator[Record]:
        """The records of all parts."""
        return (record for part in self.parts for record in part.read())


def as_label(value: Any, where: str, of: str = "") -> int | str | None:
    """Returns a stored label as a class number or a name; None for -1, null and an empty text, which mean none.

    Raises `UserError` for anything else, which names `where` the image is and `of` what the label is.
    """
    if isinstance(value, str):
        return value or None
    if value is None or value != value or value == -1:
        return None
    if isinstance(value, int | float) and int(value) == value and value >= 0:
        return int(value)
    raise UserError(f"{where}: label {value!r}{of} is neither a class number from 0 nor a name")


def as_labels(value: Any, where: str, of: str = "") -> Label | tuple[Label, ...] | None:
    """Returns a stored label as `as_label` does, and a list of them as a tuple, which may be empty: of no class.

    True and False stay: a list of them says of each class whether it is there. Raises `UserError`.
    """
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(value, list | tuple):
        return as_label(value, where, of)
    found = [one if isinstance(one, bool) else as_label(one, where, of) for one in value]
    labels = tuple(one for one in found if one is not None)
    if len(labels) < len(found):
        missing = value[found.index(None)]
        raise UserError(
            f"{where}: label {missing!r} in a list{of} is neither a class number from 0 nor a name"
        )
    return labels


def place_of(config: DataConfig, what: str) -> Path:
    """Returns `data.path`; raises `UserError` if it is missing or invalid. `what` describes what it should name."""
    if not config.path:
        raise UserError(f"data.path is missing: data set {config.name!r} needs {what}")
    place = path_of(config.path)
    if place is None:
        raise UserError(f"data.path {config.path[:60]!r}: not a valid path: too long, or of an unknown user")
    return place
