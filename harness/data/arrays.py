"""Images in arrays: NumPy's .npz files, and CIFAR-10 and CIFAR-100 as their authors publish them for Python.

`npz`: arrays of images and of labels, named as they mostly are: x_train and y_train, train_images and train_labels,
images and labels. `cifar`: the folder with data_batch_1 and the others; its pickles are read without running code.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.files import Folder, entry_of, identity
from harness.data.source import Part, Record, Source, as_labels, place_of
from harness.data.splits import split_of

IMAGES = ("x", "image", "images", "data")
LABELS = ("y", "label", "labels", "target", "targets")
# What the pickles of arrays name. `_reconstruct` makes an empty array, which then takes its content.
ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


def read_npz(config: DataConfig) -> Source:
    """Reads `data.path`, a .npz file. Raises `UserError` if images and labels cannot be told from its names."""
    path = place_of(config, "a .npz file")
    if not path.is_file():
        raise UserError(f"data.path {config.path}: {'not a file' if path.exists() else 'does not exist'}")
    pairs = _pairs(path)
    classes = _classes_of_matrix(path, [labels for _, labels in pairs.values() if labels is not None])
    parts = [
        Part(
            partial(_npz_records, path, images, labels, split),
            f"{images} {identity(str(path), [entry_of(path)])}",
        )
        for split, (images, labels) in pairs.items()
    ]
    return Source(parts, classes)


def _classes_of_matrix(path: Path, names: Sequence[str]) -> list[str] | None:
    """Returns the classes of labels [N, K] of 0 and 1, K > 1, which say of each class whether an image is of it.

    None for class numbers [N]. Raises `UserError` if arrays differ in K.
    """
    shapes = {name: _load(path, name).shape for name in names}
    widths = {name: shape[1] for name, shape in shapes.items() if len(shape) == 2 and shape[1] > 1}
    if len(set(widths.values())) > 1 or (widths and len(widths) < len(shapes)):
        said = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
        raise UserError(
            f"{path}: labels of different shapes: {said}; expected [N], or [N, K] with the same K for all"
        )
    return [str(number) for number in range(next(iter(widths.values())))] if widths else None


def _load(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: array {name!r} cannot be read: {error}") from None


def _pairs(path: Path) -> dict[str | None, tuple[str, str | None]]:
    """Returns the names of the arrays of images and labels by split."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays.files)
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path}: not a readable .npz file: {error}") from None
    found: dict[str | None, dict[str, str]] = {}
    for name in names:
        words = re.split(r"[-_. ]", name.lower())
        kind = "images" if set(words) & set(IMAGES) else "labels" if set(words) & set(LABELS) else None
        if kind is None:
            continue
        if kind in found.setdefault(split_of(name), {}):
            raise UserError(f"{path}: several arrays may be {kind}: {found[split_of(name)][kind]} and {name}")
        found[split_of(name)][kind] = name
    pairs = {split: (one["images"], one.get("labels")) for split, one in found.items() if "images" in one}
    if not pairs:
        raise UserError(
            f"{path}: no array of images among {', '.join(names)}; expected names such as x_train and y_train"
        )
    return pairs


def _npz_records(path: Path, images: str, labels: str | None, split: str | None) -> Iterator[Record]:
    images_N = as_levels(_load(path, images), f"{path}, array {images!r}")
    labels_N = None if labels is None else _labels(path, labels, len(images_N))
    for number, image in enumerate(images_N):
        where = f"{path}, {images} {number}"
        yield Record(image, None if labels_N is None else as_labels(labels_N[number], where), split, where)


def _labels(path: Path, name: str, images: int) -> list[Any]:
    """Returns each image's label, or from [N, K] of 0 and 1, K > 1, the numbers of its classes."""
    labels = _load(path, name)
    if labels.shape == (images, 1):
        labels = labels[:, 0]
    if labels.shape == (images,):
        return [one.item() for one in labels]
    if labels.ndim != 2 or len(labels) != images:
        raise UserError(
            f"{path}: {images} images, but {name!r} has shape {list(labels.shape)}; "
            "expected one label an image, or 0 and 1 for each class, [N, K]"
        )
    wrong = labels[~np.isin(labels, (0, 1))]
    if len(wrong):
        raise UserError(f"{path}: {wrong[0]} in {name!r} of shape {list(labels.shape)} is neither 0 nor 1")
    return [np.flatnonzero(row) for row in labels]


def as_levels(images: np.ndarray, where: str) -> np.ndarray:
    """Returns images as grey levels, uint8 [N, H, W] or [N, H, W, 3]; raises `UserError` for other shapes and values.

    Floats from 0 to 1 are scaled by 255.
    """
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise UserError(
            f"{where}: shape {list(images.shape)}; expected [N, H, W], [N, H, W, 3] or [N, 3, H, W], or one channel"
        )
    if images.dtype == np.uint8:
        return images
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if np.issubdtype(images.dtype, np.floating) and low >= 0 and high <= 1:
        return np.rint(images * 255.0).astype(np.uint8)
    if np.issubdtype(images.dtype, np.integer) and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    raise UserError(
        f"{where}: {images.dtype} from {low:g} to {high:g}; expected 0 to 255, or floats from 0 to 1"
    )


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays, lists and texts; anything else is an error before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return super().find_class(module, name)


def read_cifar(config: DataConfig) -> Source:
    """Reads a folder with CIFAR-10 or CIFAR-100 for Python; `data.label_column` is fine or coarse for CIFAR-100."""
    root = Path(Folder.of(config, "a folder with data_batch_1, or train, and the others").root)
    if not _batches(root):
        below = [root / name for name in ("cifar-10-batches-py", "cifar-100-python")]
        root = next((folder for folder in below if folder.is_dir()), root)
    batches = _batches(root)
    if not batches:
        raise UserError(
            f"data.path {config.path}: neither data_batch_1 and test_batch (CIFAR-10) nor train and test (CIFAR-100)"
        )
    first = _unpickled(batches[0])
    column = config.label_column or next(
        (name for name in ("labels", "fine_labels") if name in first), "labels"
    )
    column = {"fine": "fine_labels", "coarse": "coarse_labels"}.get(column, column)
    if column not in first:
        known = ", ".join(name for name in first if name.endswith("labels"))
        raise UserError(f"data.label_column {column!r}: not in {batches[0]}; known: {known}")
    parts = [
        Part(partial(_cifar_records, file, column), f"{column} {identity(str(file), [entry_of(file)])}")
        for file in batches
    ]
    return Source(parts, _cifar_names(root, column))


def _batches(root: Path) -> list[Path]:
    ten = [*sorted(root.glob("data_batch_[0-9]")), root / "test_batch"]
    hundred = [root / "train", root / "test"]
    return next(
        (files for files in (ten, hundred) if len(files) > 1 and all(one.is_file() for one in files)), []
    )


def _unpickled(file: Path) -> Mapping[str, Any]:
    """Returns what a pickle holds, its keys as texts. Raises `UserError` for one that would run code."""
    try:
        held = _Arrays(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in held.items()}
    except Exception as error:  # hostile bytes raise whatever they like
        raise UserError(f"{file}: not a readable CIFAR file: {error}") from None


def _cifar_records(file: Path, column: str) -> Iterator[Record]:
    held = _unpickled(file)
    try:
        images = np.asarray(held["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [int(one) for one in held[column]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not a readable CIFAR file: {error}") from None
    if len(labels) != len(images):
        raise UserError(f"{file}: {len(images)} images, but {len(labels)} labels")
    split = "test" if file.name.startswith("test") else "train"
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield Record(image, label, split, f"{file}, image {number}")


def _cifar_names(root: Path, column: str) -> list[str] | None:
    name = {
        "labels": "label_names",
        "fine_labels": "fine_label_names",
        "coarse_labels": "coarse_label_names",
    }[column]
    for file in (root / "batches.meta", root / "meta"):
        if file.is_file():
            names = _unpickled(file).get(name)
            return (
                None
                if names is None
                else [one.decode() if isinstance(one, bytes) else str(one) for one in names]
            )
    return None
