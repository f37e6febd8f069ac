"""Configuration of a data set: which images, and how they are split."""

from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.core.config import Config
from harness.core.registry import Registry

# A source is a function (DataConfig) -> Source.
SOURCES = Registry(
    "data set",
    {
        "digits": "harness.data.digits:read",
        "parquet": "harness.data.parquet:read",
        "folder": "harness.data.folder:read",
        "hub": "harness.data.hub:read",
    },
)


def _known(name: str) -> str:
    SOURCES.where(name)
    return name


class DataConfig(Config):
    """The `data:` section of an experiment."""

    name: Annotated[str, AfterValidator(_known)] = "digits"
    label: Annotated[str, Field(min_length=1, max_length=60)] | None = None  # its name in tables and figures
    path: str | None = None  # parquet, folder: its path; hub: the data set's id
    revision: str | None = None  # hub: a commit, tag or branch of the data set
    image_column: str | None = None  # parquet, hub: detected by default
    label_column: str | None = None
    classes: Annotated[list[str], Field(min_length=1)] | None = (
        None  # names of the classes to keep, in this order
    )
    # the shorter side is resized to this, then the centre is cropped
    size: int | None = Field(None, ge=4, le=2048)
    channels: Literal[1, 3] | None = None  # 1 grey, 3 colour; None: as in the first image
    validation: float = Field(0.2, gt=0, lt=1)  # fraction of the images, if the source has no such split
    test: float = Field(0.3, gt=0, lt=1)
    # labelled training images per class; the other training images are used without labels
    labels_per_class: int | None = Field(None, ge=1)
    max_train: int | None = Field(None, ge=1)  # at most this many images of the split
    max_validation: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)

    @property
    def display_name(self) -> str:
        """The name of the data set in tables: its label, else the last part of its path or id, else its kind."""
        return self.label or (PurePath(self.path).name if self.path else "") or self.name
