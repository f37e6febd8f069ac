"""What the labels of a data set mean: class numbers, names, or none."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.data.config import DataConfig
from harness.data.index import Index, where
from harness.data.source import Source

MOST_NUMBERED = 1000  # a class number beyond this needs as many images, or it is a mistake


class Labels(NamedTuple):
    """Labels as class numbers."""

    classes: list[str]
    numbers: np.ndarray  # int64 [N]; -1 for images without a label
    kept: np.ndarray  # boolean [N]: whether the image is of a class that is kept
    notes: list[str]


def labels_of(index: Index, rows_N: np.ndarray, source: Source, config: DataConfig) -> Labels:
    """Returns the labels of these images; raises `UserError` for labels that are no class, or mixed kinds."""
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
    classes = _renamed(classes, config)
    return _chosen(classes, numbers_N, config)


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


def _chosen(classes: list[str], numbers_N: np.ndarray, config: DataConfig) -> Labels:
    """Returns labels reduced to the classes that `data.classes` names, or all."""
    if config.classes is None:
        return Labels(classes, numbers_N, np.ones(len(numbers_N), bool), [])
    for name in config.classes:
        if name not in classes:
            raise UserError(f"data.classes: no class {name!r}; {did_you_mean(name, classes)}")
    refuse_duplicates(config.classes, "data.classes")
    number_of = np.full(len(classes) + 1, -1)
    for number, name in enumerate(config.classes):
        number_of[classes.index(name)] = number
    kept_N = number_of[numbers_N] >= 0  # -1 looks up the last, which is of no class
    notes = []
    without = int((numbers_N < 0).sum())
    if without:
        notes.append(f"left out {without:,} images without a label, since data.classes chooses by label")
    return Labels(list(config.classes), number_of[numbers_N], kept_N, notes)
