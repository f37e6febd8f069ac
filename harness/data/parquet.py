"""Image data sets in the Hugging Face Hub's Parquet layout.

A folder, at any depth, of files whose names start with their split ("train-00000-of-00002.parquet", "test.parquet"),
or that lie in its folder ("train/0000.parquet"); or a single file. Images are structs {bytes, path} or bytes.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import UserError, did_you_mean
from harness.data.config import DataConfig
from harness.data.source import Record, Source, place_of
from harness.data.splits import SPLITS, split_at_start, split_of

LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")


def read(config: DataConfig) -> Source:
    """Reads the files in `data.path`; raises `UserError` if a column is missing."""
    root = place_of(config, "a folder with Parquet files, or one file")
    if not root.exists():
        raise UserError(f"data.path {config.path}: does not exist")
    files = sorted(file for file in root.rglob("*.parquet") if file.is_file()) if root.is_dir() else [root]
    if not files:
        raise UserError(f"data.path {config.path}: no *.parquet files in this folder")
    if root.is_dir():
        _one_configuration(files, root)
    tables = [(file, _open(file)) for file in files]
    first = tables[0][1].schema
    image_column, label_column = find_columns(first, config, str(files[0]))
    for file, opened in tables:
        for column in (image_column, label_column):
            if column not in opened.schema.names:
                raise UserError(f"{file}: no column {column!r}; {did_you_mean(column, opened.schema.names)}")
        _check_types(opened.schema, image_column, label_column, str(file))
    classes = next((names for _, opened in tables if (names := class_names(opened.schema, label_column))), [])
    return Source(
        _records(tables, root, image_column, label_column, classes),
        classes or _numbered(tables, label_column),
    )


def _open(file: Path) -> pa.Table:
    try:
        return pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file: {error}") from None


def find_columns(schema: pa.Schema, config: DataConfig, where: str) -> tuple[str, str]:
    """Returns the names of the image and the label column; raises `UserError` if one is missing."""
    image = config.image_column or next((field.name for field in schema if _holds_images(field.type)), None)
    label = config.label_column or next((name for name in LABEL_NAMES if name in schema.names), None)
    for name, what in ((image, "image"), (label, "label")):
        if name is None or name not in schema.names:
            asked = f"no column {name!r}" if name else f"no {what} column found; set data.{what}_column"
            raise UserError(f"{where}: {asked}; {did_you_mean(name or what, schema.names)}")
    assert image is not None
    assert label is not None
    _check_types(schema, image, label, where)
    return image, label


def _check_types(schema: pa.Schema, image: str, label: str, where: str) -> None:
    if not _holds_images(schema.field(image).type):
        raise UserError(f"{where}: column {image!r} holds {schema.field(image).type}, not images")
    if not pa.types.is_integer(schema.field(label).type):
        raise UserError(f"{where}: column {label!r} holds {schema.field(label).type}, not class numbers")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def class_names(schema: pa.Schema, label: str) -> list[str]:
    """Returns the class names in the Hub's metadata, or none."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return [str(name) for name in info["info"]["features"][label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _numbered(tables: Sequence[tuple[Path, pa.Table]], label: str) -> list[str]:
    numbers = (number for _, table in tables for number in table[label].to_pylist())
    highest = max((number for number in numbers if number is not None), default=-1)
    images = sum(table.num_rows for _, table in tables)
    if highest >= max(images, 1000):  # a list of this length would be created
        raise UserError(
            f"column {label!r}: class number {highest}, but only {images} images; number classes from 0"
        )
    return [str(number) for number in range(highest + 1)]


def split_in(path: Path) -> str | None:
    """Returns the split that a path names: by the beginning of the file's name, else by its nearest folder."""
    places = (split_of(part) for part in reversed(path.parts[:-1]))
    return split_at_start(path.stem) or next((split for split in places if split), None)


def _one_configuration(files: Sequence[Path], root: Path) -> None:
    """Raises `UserError` if the files belong to several configurations, which repeat images."""
    found: dict[tuple[str, ...], set[str | None]] = {}
    for file in files:
        path = file.relative_to(root)
        folders = tuple(part for part in path.parts[:-1] if split_of(part) is None)
        found.setdefault(folders, set()).add(split_in(path))
    shared = [split for split in SPLITS if sum(split in s for s in found.values()) > 1]
    if len(found) > 1 and shared:
        names = ", ".join("/".join(folders) or "." for folders in sorted(found))
        raise UserError(
            f"data.path {root}: several configurations have a {shared[0]} split ({names}), and may repeat images; "
            "set data.path to the folder of one"
        )


def _records(
    tables: Sequence[tuple[Path, pa.Table]], root: Path, image: str, label: str, classes: Sequence[str]
) -> Iterator[Record]:
    for file, table in tables:
        split = split_in(file.relative_to(root)) if root.is_dir() else split_in(Path(file.name))
        for row, (picture, number) in enumerate(zip(table[image], table[label], strict=True)):
            where = f"{file}, row {row}"
            content, value = picture.as_py(), number.as_py()
            content = content.get("bytes") if isinstance(content, dict) else content
            if content is None:
                raise UserError(f"{where}: the image cannot be read: it is null")
            if value is None or value < 0 or (classes and value >= len(classes)):
                allowed = f"between 0 and {len(classes) - 1}" if classes else "a class number, 0 or more"
                raise UserError(f"{where}: label {value} is not {allowed}")
            yield Record(content, value, split, where)
