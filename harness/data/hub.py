"""A data set on the Hugging Face Hub, by its id, read with the library `datasets`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.core.recent import Recent
from harness.data.config import DataConfig
from harness.data.source import Part, Record, Source
from harness.data.splits import split_of
from harness.data.tables import Columns, File, class_names, find_columns, label_of

ROWS_A_PART = 1024


def read(config: DataConfig) -> Source:
    """Downloads `data.path` at `data.revision`; data sets that need their own code are refused."""
    if config.path is None:
        raise UserError("data.path is missing: data set 'hub' needs an id such as uoft-cs/cifar10")
    splits = _loaded(config.path, config.revision)
    chosen, notes = _by_name(splits, config)
    first = next(iter(chosen))
    features = splits[first].features
    columns = find_columns(features, config, File("hub", f"data.path {config.path}", None, ""))
    parts = []
    for name, split in chosen.items():
        rows = splits[name].num_rows
        version = splits[name]._fingerprint
        for begin in range(0, rows, ROWS_A_PART):
            reading = partial(_records, config, name, split, columns, begin)
            parts.append(Part(reading, f"{version} {columns} {split} {begin}"))
    return Source(parts, class_names(features, columns), notes, everywhere=False)


def _loaded(path: str, revision: str | None) -> Any:
    """Returns a data set by split; the last one stays open for its next part."""
    return _opened.get((path, revision), lambda: _load(path, revision))


_opened = Recent[Any]()


def _load(path: str, revision: str | None) -> Any:
    from harness.data.library import datasets

    try:
        return datasets().load_dataset(path, revision=revision)
    except ConnectionError:
        raise UserError(
            f"data.path {path}: not in the local cache, and the Hub cannot be reached; go online once, or "
            f"copy it here (`hf download {path} --repo-type dataset --local-dir FOLDER` elsewhere) and set "
            "data.name = parquet and data.path = FOLDER"
        ) from None
    except (
        Exception
    ) as error:  # the library has many errors: missing, gated, several configurations, not a data set
        raise UserError(
            f"data.path {path}: cannot be loaded from the Hub: {' '.join(str(error).split())}"
        ) from None


def _by_name(splits: Any, config: DataConfig) -> tuple[dict[str, str | None], list[str]]:
    """Returns the splits to read, with the split that each becomes, and what was left out."""
    if config.splits is not None:
        for split, name in config.named_splits:
            if name not in splits:
                raise UserError(f"data.splits.{split}: no split {name!r}; {did_you_mean(name, list(splits))}")
        refuse_duplicates([name for _, name in config.named_splits], "data.splits")
        return {name: split for split, name in config.named_splits}, []
    if len(splits) == 1:
        return {name: split_of(name) for name in splits}, []
    found = {name: split_of(name) for name in splits}
    left = [
        f"left out split {name!r} ({splits[name].num_rows} images): not called train, validation or test"
        for name, split in found.items()
        if split is None
    ]
    return {name: split for name, split in found.items() if split is not None}, left


def _records(
    config: DataConfig, name: str, split: str | None, columns: Columns, begin: int
) -> Iterator[Record]:
    from harness.data.library import datasets

    path, image = str(config.path), columns.image
    rows = _loaded(path, config.revision)[name]
    rows = rows.cast_column(image, datasets().Image(decode=False))
    for number in range(begin, min(begin + ROWS_A_PART, rows.num_rows)):
        row = rows[number]
        where = f"{path}, {name}, row {number}"
        picture = row[image]
        content = picture and (picture["bytes"] or picture["path"])
        if not content:
            raise UserError(f"{where}: the image cannot be read: it is null")
        yield Record(content, label_of(row, columns, where), split, where)
