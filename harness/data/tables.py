"""Images in tables, read with the library `datasets`: Parquet, Arrow, WebDataset tar files, CSV and JSON Lines.

`path` is a file, a folder, or the URL of one. Splits are those that `datasets` finds in the names of files and
folders, such as train-00000-of-00002.parquet or train/0000.parquet. A CSV or JSON Lines file lists images: a column
has their paths, relative to the file, another their labels, and one called "split", if there is one, their splits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.core.paths import path_of
from harness.data.config import DataConfig
from harness.data.files import Entry, Folder, entry_of, identity
from harness.data.source import Label, Part, Record, Source, as_labels, place_of
from harness.data.splits import SPLITS, split_of

if TYPE_CHECKING:
    from datasets import Features, IterableDataset

ENDINGS = {
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow",),
    "webdataset": (".tar",),
    "csv": (".csv", ".tsv"),
    "json": (".jsonl", ".json", ".ndjson"),
}
LABELS = ("label", "labels", "class", "cls", "target", "category")
PATHS = ("file_name", "filename", "image", "path", "file", "filepath", "image_path", "img", "img_path")
NO_LABELS = "none"  # as the name of the label column: no image has one
SPLIT = "split"  # a column of a CSV or JSON Lines file
ROWS_A_PART = 512  # of a CSV or JSON Lines file
ROWS_AT_ONCE = 64  # of a Parquet file: by default a whole row group is read, which may be gigabytes


class Columns(NamedTuple):
    """Which columns are read."""

    image: str
    label: str | None  # None: no image has a label
    split: str | None = None
    names: tuple[str, ...] | None = None  # of classes, as metadata give them
    each: tuple[str, ...] = ()  # a column of 0 and 1 for each class
    separator: str | None = None  # between the labels of a text


class File(NamedTuple):
    """A file of a table, and the split that its name says."""

    format: str
    path: str
    split: str | None
    identity: str | None


def read(config: DataConfig) -> Source:
    """Finds the files of `data.path` and which of their columns hold images and labels. Raises `UserError`."""
    files, notes = _files(config)
    first = next((one for one in files if one.split == "train"), files[0])
    features = _features(_opened(first), first.path)
    columns = find_columns(features, config, first)
    classes = class_names(features, columns)
    columns = columns._replace(names=None if classes is None else tuple(classes))
    if first.format in ("csv", "json"):
        return Source(_listed(files, columns), classes, notes)
    parts = [
        Part(partial(_records, file, columns), file.identity and f"{file.identity} {file.split} {columns}")
        for file in files
    ]
    return Source(parts, classes, notes)


def _files(config: DataConfig) -> tuple[list[File], list[str]]:
    """Returns the files of a data set, by split, and what was left out."""
    endings = ENDINGS[config.name]
    what = f"a folder with {' or '.join('*' + one for one in endings)} files, or one file"
    single = None if not config.path or "://" in config.path else path_of(config.path)
    if single is not None and single.is_file():
        return [_file(config.name, Folder(str(single.parent)), entry_of(single), split_of(single.stem))], []
    if single is None and config.path and config.path.endswith(endings):
        parent, name = config.path.rsplit("/", 1)
        found = [one for one in Folder(parent).entries() if one.name == name]
        if not found:
            raise UserError(f"data.path {config.path}: does not exist")
        return [_file(config.name, Folder(parent), found[0], split_of(name))], []
    if single is None and "://" not in (config.path or ""):
        place_of(config, what)
    folder = Folder.of(config, what)
    entries = [one for one in folder.entries() if one.name.lower().endswith(endings)]
    entries = _of_saved(folder, entries) if config.name == "arrow" else entries
    if not entries:
        raise UserError(
            f"data.path {config.path}: no {' or '.join('*' + one for one in endings)} files in this folder"
        )
    chosen = _by_splits(config, folder, entries) if config.splits else _by_names(folder, entries)
    _one_configuration(chosen, folder)
    left = len(entries) - len({entry.name for entry, _ in chosen})
    notes = [f"left out {left} files whose names say no split, beside those of splits"] if left else []
    return [_file(config.name, folder, entry, split) for entry, split in chosen], notes


def _file(form: str, folder: Folder, entry: Entry, split: str | None) -> File:
    return File(form, str(folder.path(entry.name)), split, identity(folder.root, [entry]))


def _of_saved(folder: Folder, entries: Sequence[Entry]) -> list[Entry]:
    """Returns the files of a data set that `save_to_disk` wrote, without caches beside them."""
    return [one for one in entries if not PurePosixPath(one.name).name.startswith("cache-")]


def _by_names(folder: Folder, entries: Sequence[Entry]) -> list[tuple[Entry, str | None]]:
    """Returns the files of each split as `datasets` finds them: by folders if any is a split, else by their names."""
    of_folder = [(one, _split_of_parts(PurePosixPath(one.name).parts[:-1])) for one in entries]
    if any(split for _, split in of_folder):
        return [(one, split) for one, split in of_folder if split]
    of_name = [(one, split_of(PurePosixPath(one.name).stem)) for one in entries]
    if any(split for _, split in of_name):
        return [(one, split) for one, split in of_name if split]
    return [(one, None) for one in entries]


def _split_of_parts(parts: Sequence[str]) -> str | None:
    return next((split for part in reversed(parts) if (split := split_of(part))), None)


def _by_splits(
    config: DataConfig, folder: Folder, entries: Sequence[Entry]
) -> list[tuple[Entry, str | None]]:
    """Returns the files that `data.splits` names: by a pattern, a name, or their folder."""
    chosen: list[tuple[Entry, str | None]] = []
    for split, pattern in config.named_splits:
        found = [one for one in entries if _matches(one.name, pattern)]
        if not found:
            raise UserError(
                f"data.splits.{split}: no file in {folder.root} is called {pattern!r} or lies in it"
            )
        chosen += [(one, split) for one in found]
    refuse_duplicates([entry.name for entry, _ in chosen], "data.splits")
    return chosen


def _matches(name: str, pattern: str) -> bool:
    return PurePosixPath(name).match(pattern) or name.startswith(pattern.rstrip("/") + "/")


def _one_configuration(chosen: Sequence[tuple[Entry, str | None]], folder: Folder) -> None:
    """Raises `UserError` if the files belong to several configurations, which repeat images."""
    found: dict[tuple[str, ...], set[str | None]] = {}
    for entry, split in chosen:
        folders = tuple(part for part in PurePosixPath(entry.name).parts[:-1] if split_of(part) is None)
        found.setdefault(folders, set()).add(split)
    shared = [split for split in SPLITS if sum(split in splits for splits in found.values()) > 1]
    if len(found) > 1 and shared:
        names = ", ".join("/".join(folders) or "." for folders in sorted(found))
        raise UserError(
            f"data.path {folder.root}: several configurations have a {shared[0]} split ({names}), and may repeat "
            "images; set data.path to the folder of one, or name the files of each split in data.splits"
        )


def _opened(file: File) -> "IterableDataset":
    """Opens one file as a stream; its images stay encoded. Raises `UserError`."""
    from harness.data.library import datasets

    options = {"batch_size": ROWS_AT_ONCE} if file.format == "parquet" else {}
    try:
        if file.format == "csv":
            return _opened_csv(file.path)
        return datasets().load_dataset(
            file.format, data_files={"train": [file.path]}, split="train", streaming=True, **options
        )
    except Exception as error:  # the library and the file systems have many errors
        raise _unreadable(file.path, error) from None


def _opened_csv(path: str) -> "IterableDataset":
    """Opens a CSV file, which `datasets` would not close; no text but the empty one stands for a missing value."""
    import pandas

    from harness.data.library import datasets

    separator = "\t" if path.lower().endswith(".tsv") else ","
    with fsspec.open(path, "rt", encoding="utf-8-sig") as file:
        frame = pandas.read_csv(file, sep=separator, keep_default_na=False, na_values=[""], low_memory=False)
    return datasets().Dataset.from_pandas(frame, preserve_index=False).to_iterable_dataset()


def _unreadable(path: str, error: Exception) -> UserError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return UserError(
        f"{path}: cannot be read: {' '.join(str(cause or error).split()) or type(cause).__name__}"
    )


def _features(opened: "IterableDataset", path: str) -> "Features":
    try:
        features = opened.features or opened._resolve_features().features
    except Exception as error:
        raise _unreadable(path, error) from None
    if not features:
        raise UserError(f"{path}: has no rows")
    return features


def find_columns(features: Mapping[str, Any], config: DataConfig, file: File) -> Columns:
    """Returns the columns with images and labels; raises `UserError` if they are missing or there is a choice."""
    names = list(features)
    lists = file.format in ("csv", "json")
    image = config.image_column
    if image is None:
        images = [name for name in names if (_is_path(name) if lists else holds_images(features[name]))]
        image = _only(images, "image", file.path, names)
    elif image not in features:
        raise UserError(f"{file.path}: no column {image!r}; {did_you_mean(image, names)}")
    elif not lists and not holds_images(features[image]):
        raise UserError(f"{file.path}: column {image!r} holds {_kind(features[image])}, not images")
    each, separator = tuple(config.label_columns or ()), config.label_separator
    for name in each:
        if _within(features, name) is None:
            raise UserError(f"{file.path}: no column {name!r}; {did_you_mean(name, names)}")
    refuse_duplicates(each, "data.label_columns")
    label = config.label_column
    if label == NO_LABELS or each:
        label = None
    elif label is None:
        columns = _columns(features)
        labels = [name for name in columns if _is_label(name.rsplit(".", 1)[-1], _within(features, name))]
        label = _only(labels, "label", file.path, columns)
    elif _within(features, label) is None:
        raise UserError(f"{file.path}: no column {label!r}; {did_you_mean(label, names)}")
    split = SPLIT if lists and SPLIT in features else None
    return Columns(image, label, split, each=each, separator=separator)


def _only(found: Sequence[str], what: str, path: str, names: Sequence[str]) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{path}: several columns may hold {what}s ({', '.join(found)}); set data.{what}_column to one"
        )
    none = f", or {NO_LABELS} if there are no labels" if what == "label" else ""
    raise UserError(
        f"{path}: no {what} column found; set data.{what}_column{none}; {did_you_mean(what, list(names))}"
    )


def holds_images(feature: Any) -> bool:
    """Returns whether a feature of `datasets` is an image: encoded bytes, or bytes with a path."""
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, Mapping):
        return getattr(feature.get("bytes"), "dtype", "") in ("binary", "large_binary")
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _is_path(name: str) -> bool:
    return name.lower() in PATHS


def _is_label(name: str, feature: Any) -> bool:
    return type(feature).__name__ == "ClassLabel" or name.lower() in LABELS


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _within(features: Mapping[str, Any], name: str) -> Any:
    """Returns a column's feature; one inside a struct is called "json.label"."""
    found: Any = features
    if name in features:
        return features[name]
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _columns(features: Mapping[str, Any]) -> list[str]:
    """Returns the names of all columns but images, also of those inside a struct."""
    return [
        f"{name}.{inner}" if inner else name
        for name, feature in features.items()
        if not holds_images(feature)
        for inner in (feature if isinstance(feature, Mapping) else [""])
    ]


def class_names(features: Mapping[str, Any], columns: Columns) -> list[str] | None:
    """Returns the class names that metadata, or the names of the columns of classes, give; None if none do."""
    if columns.each:
        return list(columns.each)
    feature = None if columns.label is None else _within(features, columns.label)
    names = getattr(getattr(feature, "feature", feature), "names", None)  # of a list, those of what it holds
    return [str(name) for name in names] if names else None


def _rows(file: File, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the rows of a file with their numbers; images stay encoded."""
    from harness.data.library import datasets

    opened = _opened(file)
    features = _features(opened, file.path)
    for name in (columns.image, columns.label, columns.split, *columns.each):
        if name is not None and _within(features, name) is None:
            raise UserError(f"{file.path}: no column {name!r}; {did_you_mean(name, list(features))}")
    names = class_names(features, columns)
    if names and columns.names and tuple(names) != columns.names:
        raise UserError(
            f"{file.path}: its metadata name the classes {', '.join(names[:5])}, those of another file "
            f"{', '.join(columns.names[:5])}; the same number would be two classes"
        )
    if type(features.get(columns.image)).__name__ == "Image":
        opened = opened.cast_column(columns.image, datasets().Image(decode=False))
    try:
        yield from enumerate(opened)
    except Exception as error:
        raise _unreadable(file.path, error) from None


def _records(file: File, columns: Columns) -> Iterator[Record]:
    """Yields the images of a file that holds them."""
    for number, row in _rows(file, columns):
        where = f"{file.path}, row {number}"
        picture = row[columns.image]
        content = picture.get("bytes") if isinstance(picture, Mapping) else picture
        if content is None and isinstance(picture, Mapping) and picture.get("path"):
            content = _beside(file.path, str(picture["path"]))
        if content is None:
            raise UserError(f"{where}: the image cannot be read: it is null")
        yield Record(content, label_of(row, columns, where), file.split, where)


def label_of(row: Mapping[str, Any], columns: Columns, where: str) -> Label | tuple[Label, ...] | None:
    """Returns a row's label: a number, a name, or None if it has none (-1, null, or an empty text); or several.

    These come from a list, from a text with the separator, or from columns of 0 and 1. Raises `UserError`.
    """
    if columns.each:
        return _of_columns([_value(row, name) for name in columns.each], columns.each, where)
    column = columns.label
    if column is None:
        return None
    value = _value(row, column)
    of = f" of column {column!r}"
    if columns.separator is None:
        return as_labels(value, where, of)
    if isinstance(value, list | tuple | Mapping):
        raise UserError(
            f"{where}: label {value!r}{of} is no text to separate; leave out data.label_separator"
        )
    parts = "" if value is None or value != value else str(value)
    return tuple(part for one in parts.split(columns.separator) if (part := one.strip()))


def _of_columns(values: Sequence[Any], names: Sequence[str], where: str) -> tuple[str, ...] | None:
    """Returns the names of the columns that hold 1; None if all are null."""
    missing = [value is None or value != value for value in values]
    if all(missing):
        return None
    for name, value, absent in zip(names, values, missing, strict=True):
        if absent or isinstance(value, str) or value not in (0, 1):
            raise UserError(f"{where}: {value!r} in column {name!r} of data.label_columns is neither 0 nor 1")
    return tuple(name for name, value in zip(names, values, strict=True) if value == 1)


def _value(row: Mapping[str, Any], column: str) -> Any:
    """Returns what a row has in a column, perhaps inside a struct; a text without spaces around it."""
    value: Any = row
    if column in row:
        value = row[column]
    else:
        for part in column.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip() if isinstance(value, str) else value


def _listed(files: Sequence[File], columns: Columns) -> list[Part]:
    """Returns the images that CSV or JSON Lines files list, in parts that are recognised by the images' files."""
    parts = []
    for file in files:
        records = [_of_list(file, columns, number, row) for number, row in _rows(file, columns)]
        for begin in range(0, len(records), ROWS_A_PART):
            some = records[begin : begin + ROWS_A_PART]
            parts.append(Part(partial(list, some), _stamps(file, begin, some)))
    return parts


def _of_list(file: File, columns: Columns, number: int, row: Mapping[str, Any]) -> Record:
    """Returns the image in a row of a CSV or JSON Lines file."""
    where = f"{file.path}, row {number}"
    name = str(row[columns.image] or "")
    if not name:
        raise UserError(f"{where}: no path in column {columns.image!r}")
    split = file.split
    if columns.split is not None:
        split = split_of(str(row[columns.split] or ""))
        if split is None:
            raise UserError(
                f"{where}: {row[columns.split]!r} in column {columns.split!r} is not train, validation or test"
            )
    path = _beside(file.path, name)
    return Record(path, label_of(row, columns, where), split, f"{path} ({where})")


def _beside(file: str, name: str) -> Path | str:
    """Returns the path or URL of an image that a file names, relative to that file."""
    if "://" in name:
        return name
    return (
        f"{file.rsplit('/', 1)[0]}/{name}" if "://" in file else Path(file).parent / Path(name).expanduser()
    )


def _stamps(file: File, begin: int, records: Iterable[Record]) -> str | None:
    """Returns the identity of a part of a list: of the list itself, and of the files of its images."""
    entries = []
    for record in records:
        if file.identity is None or not isinstance(record.image, Path):
            return None
        try:
            entries.append(entry_of(record.image)._replace(name=str(record.image)))
        except OSError:
            entries.append(Entry(str(record.image), 0, "missing"))
    return identity(f"{file.identity} {begin}", entries)
