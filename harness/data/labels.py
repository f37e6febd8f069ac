"""What the labels of a data set mean: class numbers, names, or none."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.data.config import DataConfig
from harness.data.index import Index, where
from harness.data.label_arrays import is_labelled
from harness.data.source import Source

SEPARATOR = "|"  # names with it are probably several; they are not taken apart unasked
MOST_NUMBERED = 1000  # a class number beyond this needs as many images, or it is a mistake


class Labels(NamedTuple):
    """Labels as class numbers."""

    classes: list[str]
    # class numbers, int64 [N], -1 for images without a label; of multi-label data 0 and 1, int8 [N, K], or rows of -1
    numbers: np.ndarray
    kept: np.ndarray  # boolean [N]: whether the image is of a class that is kept
    notes: list[str]


def labels_of(index: Index, rows_N: np.ndarray, source: Source, config: DataConfig) -> Labels:
    """Returns the labels of these images; raises `UserError` for labels that are no class, or mixed kinds."""
    if (index.names("several")[1][rows_N] >= 0).any():
        return _several(index, rows_N, source, config)
    numbers_N = index.column("number")[rows_N].astype(np.int64)
    texts, place_N = index.names("name")
    place_N = place_N[rows_N]
    named_N = place_N >= 0
    if source.classes is not None:
        classes = [str(name) for name in source.classes]
    elif named_N.any():
        classes = sorted({texts[place] for place in np.unique(place_N[named_N])})
        _refuse_mixed(named_N, numbers_N, index, rows_N, source)
    else:
        classes = _numbered(int(numbers_N.max(initial=-1)), len(numbers_N), config)
    if named_N.any():
        number_of = np.array([classes.index(text) if text in classes else -2 for text in texts])
        numbers_N = np.where(named_N, number_of[place_N], numbers_N)
    wrong = np.flatnonzero((numbers_N == -2) | (numbers_N >= len(classes)))
    if len(wrong):
        place = where(source, index, int(rows_N[wrong[0]]))
        given = texts[place_N[wrong[0]]] if named_N[wrong[0]] else int(numbers_N[wrong[0]])
        raise UserError(f"{place}: label {given!r} is not a class: there are {len(classes)}, numbered from 0")
    joined = [name for name in classes if SEPARATOR in name] if config.label_separator is None else []
    classes = _renamed(classes, config)
    found = _chosen(classes, numbers_N, config)
    if joined:
        found.notes.append(
            f"{len(joined)} classes have a {SEPARATOR!r} in their names, such as {joined[0]!r}: if these are several "
            f"labels, set data.label_separator to {SEPARATOR!r}"
        )
    return found


def _several(index: Index, rows_N: np.ndarray, source: Source, config: DataConfig) -> Labels:
    """Returns the labels of images that may have several, from lists of class numbers, of names, or of 0 and 1."""
    texts, place_N = index.names("several")
    place_N = place_N[rows_N]
    single_N = (place_N < 0) & ((index.column("number")[rows_N] >= 0) | (index.names("name")[1][rows_N] >= 0))
    _refuse_first(single_N, "one label, but other images have lists of them", index, rows_N, source)
    used, place_N = np.unique(place_N, return_inverse=True)
    lists: list[list[Any]] = [[] if place < 0 else json.loads(texts[place]) for place in used]
    notes = []
    length = _length_of_vectors([one for one, place in zip(lists, used, strict=True) if place >= 0])
    if length and (source.classes is None or length == len(source.classes)):
        notes.append(
            f"lists of {length} labels, all 0 or 1: each says of one class whether the image is of it"
        )
        lists = [[number for number, one in enumerate(given) if one] for given in lists]
    elif any(isinstance(one, bool) for given in lists for one in given):
        raise UserError(
            f"data set {config.name!r}: lists of true and false must have one entry a class, so all the same length"
        )
    classes = _classes_of(lists, source, config, length if notes else 0, len(rows_N))
    number_of: dict[Any, int] = {name: number for number, name in enumerate(classes)}
    number_of |= {number: number for number in range(len(classes))}
    table = np.zeros((len(used), len(classes)), np.int8)
    table[used < 0] = -1
    named = source.classes is None and any(isinstance(one, str) for given in lists for one in given)
    for row, given in enumerate(lists):
        for one in given:
            said = ""
            if named and not isinstance(one, str):
                said = f"label {one} is a number, but other labels are names"
            elif one not in number_of:
                said = f"label {one!r} is not a class: there are {len(classes)}, numbered from 0"
            if said:
                _refuse_first(place_N == row, said, index, rows_N, source)
            table[row, number_of[one]] = 1
    repeated_U = np.array([len(set(given)) < len(given) for given in lists])
    if repeated_U[place_N].any():
        count = int(repeated_U[place_N].sum())
        notes.append(f"{count:,} images name a class more than once, which counts once: it is there or not")
    return _chosen_of_several(_renamed(classes, config), table[place_N], notes, config)


def _refuse_first(wrong_N: np.ndarray, said: str, index: Index, rows_N: np.ndarray, source: Source) -> None:
    """Raises `UserError` for the first of these images, if there is one."""
    if wrong_N.any():
        raise UserError(f"{where(source, index, int(rows_N[np.flatnonzero(wrong_N)[0]]))}: {said}")


def _length_of_vectors(lists: Sequence[Sequence[Any]]) -> int:
    """Returns the length of lists that say of each class whether an image is of it; 0 if they name classes.

    They are of one length and hold 0 and 1 alone, one of them more than once.
    """
    lengths = {len(given) for given in lists}
    binary = all(not isinstance(one, str) and one in (0, 1) for given in lists for one in given)
    repeated = any(len(set(given)) < len(given) for given in lists)
    return lengths.pop() if len(lengths) == 1 and binary and repeated else 0


def _classes_of(
    lists: Sequence[Sequence[Any]], source: Source, config: DataConfig, length: int, images: int
) -> list[str]:
    """Returns the source's classes, those that lists name, or numbers: as many as there are, or `length`."""
    if source.classes is not None:
        return [str(name) for name in source.classes]
    found = {one for given in lists for one in given}
    if not found and not length:
        raise UserError(f"data set {config.name!r}: all lists of labels are empty, so there are no classes")
    names = sorted(one for one in found if isinstance(one, str))
    return names or _numbered(max([*found, length - 1]), images, config)


def _refuse_mixed(
    named_N: np.ndarray, numbers_N: np.ndarray, index: Index, rows_N: np.ndarray, source: Source
) -> None:
    mixed = np.flatnonzero(~named_N & (numbers_N >= 0))
    if len(mixed):
        place = where(source, index, int(rows_N[mixed[0]]))
        raise UserError(f"{place}: label {numbers_N[mixed[0]]} is a number, but other labels are names")


def _numbered(highest: int, images: int, config: DataConfig) -> list[str]:
    if highest >= max(images, MOST_NUMBERED):  # a list of this length would be created
        raise UserError(
            f"data set {config.name!r}: class number {highest}, but only {images} images; number classes from 0"
        )
    return [str(number) for number in range(highest + 1)]


def _renamed(classes: Sequence[str], config: DataConfig) -> list[str]:
    """Returns the names that `data.class_names` gives."""
    given = config.class_names or {}
    for name in given:
        if name not in classes:
            raise UserError(f"data.class_names: no class {name!r}; {did_you_mean(name, list(classes))}")
    renamed = [given.get(name, name) for name in classes]
    refuse_duplicates(renamed, "data.class_names")
    return renamed


def _refuse_unknown(chosen: Sequence[str], classes: Sequence[str]) -> None:
    for name in chosen:
        if name not in classes:
            raise UserError(f"data.classes: no class {name!r}; {did_you_mean(name, list(classes))}")
    refuse_duplicates(chosen, "data.classes")


def _chosen(classes: list[str], numbers_N: np.ndarray, config: DataConfig) -> Labels:
    """Returns labels reduced to the classes that `data.classes` names, or all."""
    if config.classes is None:
        return Labels(classes, numbers_N, np.ones(len(numbers_N), bool), [])
    _refuse_unknown(config.classes, classes)
    number_of = np.full(len(classes) + 1, -1)
    for number, name in enumerate(config.classes):
        number_of[classes.index(name)] = number
    kept_N = number_of[numbers_N] >= 0  # -1 looks up the last, which is of no class
    notes = []
    without = int((numbers_N < 0).sum())
    if without:
        notes.append(f"left out {without:,} images without a label, since data.classes chooses by label")
    return Labels(list(config.classes), number_of[numbers_N], kept_N, notes)


def _chosen_of_several(
    classes: list[str], labels_NK: np.ndarray, notes: list[str], config: DataConfig
) -> Labels:
    """Returns labels reduced to the classes that `data.classes` names; an image of none of them is kept as such."""
    everything_N = np.ones(len(labels_NK), bool)
    if config.classes is None:
        return Labels(classes, labels_NK, everything_N, notes)
    _refuse_unknown(config.classes, classes)
    chosen_NK = labels_NK[:, [classes.index(name) for name in config.classes]]
    left = int((is_labelled(labels_NK) & (labels_NK == 1).any(1) & ~(chosen_NK == 1).any(1)).sum())
    if left:
        notes.append(f"{left:,} images are of none of data.classes: kept, as of no class")
    return Labels(list(config.classes), chosen_NK, everything_N, notes)
