"""Configuration of a data set: which images, and how they are split."""

from pathlib import PurePath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from harness.core.config import Config
from harness.core.registry import Registry

# A source is a function (DataConfig) -> Source.
SOURCES = Registry(
    "data set",
    {
        "digits": "harness.data.digits:read",
        "folder": "harness.data.folder:read",
        "hub": "harness.data.hub:read",
        "parquet": "harness.data.tables:read",
        "arrow": "harness.data.tables:read",
        "webdataset": "harness.data.tables:read",
        "csv": "harness.data.tables:read",
        "json": "harness.data.tables:read",
        "npz": "harness.data.arrays:read_npz",
        "cifar": "harness.data.arrays:read_cifar",
    },
)


Split = Literal["train", "validation", "test"]


# Settings that only some of our own sources read; any may be read by a source of another package.
READ_BY_SOME = ("revision", "image_column", "label_column", "label_columns", "label_separator", "splits")
TABLE = {*READ_BY_SOME} - {"revision"}
READS: dict[str, set[str]] = {
    "digits": set(),
    "folder": {"splits"},
    "hub": {*READ_BY_SOME},
    **dict.fromkeys(("parquet", "arrow", "webdataset", "csv", "json"), TABLE),
    "npz": set(),
    "cifar": {"label_column"},
}


def _known(name: str) -> str:
    SOURCES.where(name)
    return name


class DataConfig(Config):
    """The `data:` section of an experiment."""

    name: Annotated[str, AfterValidator(_known)] = "digits"
    label: Annotated[str, Field(min_length=1, max_length=60)] | None = None  # its name in tables and figures
    path: str | None = None  # of a file or folder, or its URL; hub: the data set's id
    revision: str | None = None  # hub: a commit, tag or branch of the data set
    image_column: str | None = None  # of tables: detected by default
    label_column: str | None = None
    # multi-label data: a column of 0 and 1 for each class, or what separates the names in a text
    label_columns: Annotated[list[str], Field(min_length=1)] | None = None
    label_separator: Annotated[str, Field(min_length=1)] | None = None
    # the source's names for each split: folders, file patterns, or splits of the Hub; by default found by their names
    splits: Annotated[dict[Split, str | list[str]], Field(min_length=1)] | None = None
    class_names: dict[str, str] | None = None  # other names for labels: {n01440764: tench}, {"0": airplane}
    classes: Annotated[list[str], Field(min_length=1)] | None = (
        None  # names of the classes to keep, in this order
    )
    skip_unreadable: bool = False  # leave out images that cannot be decoded, and count them
    # the shorter side is resized to this, then the centre is cropped
    size: int | None = Field(None, ge=4, le=2048)
    channels: Literal[1, 3] | None = None  # 1 grey, 3 colour; None: colour if any image is
    validation: float = Field(0.2, gt=0, lt=1)  # fraction of the images, if the source has no such split
    test: float = Field(0.3, gt=0, lt=1)
    subset: float | None = Field(None, gt=0, le=1)  # for a first look: a fraction of each split, stratified
    # labelled training images per class; the other training images are used without labels
    labels_per_class: int | None = Field(None, ge=1)
    max_train: int | None = Field(None, ge=1)  # at most this many images of the split
    max_validation: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _all_is_read(self) -> Self:
        ignored = set(READ_BY_SOME) - READS.get(self.name, {*READ_BY_SOME})
        given = [name for name in READ_BY_SOME if name in ignored and getattr(self, name) is not None]
        if given:
            raise ValueError(f"data set {self.name!r} does not read {', '.join(given)}; leave it out")
        others = [name for name in ("label_column", "label_separator") if getattr(self, name) is not None]
        if self.label_columns is not None and others:
            raise ValueError(f"label_columns names the columns of all classes; leave out {', '.join(others)}")
        return self

    @property
    def named_splits(self) -> list[tuple[Split, str]]:
        """The entries of `splits` one by one: a split, and a name of the source."""
        given = (self.splits or {}).items()
        return [
            (split, name) for split, names in given for name in ([names] if isinstance(names, str) else names)
        ]

    @property
    def display_name(self) -> str:
        """The name of the data set in tables: its label, else the last part of its path or id, else its kind."""
        return self.label or (PurePath(self.path).name if self.path else "") or self.name
