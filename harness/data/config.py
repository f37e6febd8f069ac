"""Which images, and how they are split."""

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
    path: str | None = None  # parquet, folder: where it lies; hub: the data set's id
    revision: str | None = None  # hub: a commit of the data set
    image_column: str | None = None  # parquet, hub: found by itself where one column holds images
    label_column: str | None = None
    size: int | None = Field(
        None, ge=4, le=2048
    )  # shorter side is resized to this, then the centre is cropped
    channels: Literal[1, 3] | None = None  # 1 grey, 3 colour; None: as the first image is
    validation: float = Field(0.2, gt=0, lt=1)  # share of the images, where the source has no such split
    test: float = Field(0.3, gt=0, lt=1)
    labels_per_class: int | None = Field(
        None, ge=1
    )  # labelled training images a class; the rest has no labels
    max_train: int | None = Field(None, ge=1)  # take at most so many images of a split
    max_validation: int | None = Field(None, ge=1)
    max_test: int | None = Field(None, ge=1)
