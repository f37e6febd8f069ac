"""What makes results mean less than they seem to: what the sweep found in its data, and what the rows show."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from harness.core.tables import Role
from harness.report.figures.figure import succeeded
from harness.report.pictures import Sheet, sheet
from harness.report.rendering import render
from harness.report.tables import Tables
from harness.report.words import several

FEW = 30  # samples below which an interval is too wide to say much


def warnings(tables: Tables) -> list[str]:
    """Returns one sentence per reason for caution."""
    found = list(tables.warnings or ())
    for name in tables.results:
        frame = succeeded(tables.frames[name])
        title = tables.declared[name].title or name
        found += [f"{title}: {one}" for one in [*_few(tables, name, frame), *_features(frame)]]
    return found


def _few(tables: Tables, name: str, frame: pd.DataFrame) -> list[str]:
    """Returns a sentence for each accuracy that some results measured on few samples."""
    found = []
    for column in tables.declared[name].names(Role.INTERVAL):
        if column.endswith("_n"):
            few = frame[column][frame[column] < FEW]
            if len(few):
                what = column.removesuffix("_n").replace("_", " ")
                found.append(
                    f"{several(len(few), 'result')} with a {what} of {int(few.min())} samples only: the 95 % "
                    "interval holds almost any value"
                )
    return found


def _features(frame: pd.DataFrame) -> list[str]:
    found = []
    if "constant_share" in frame:
        constant = int((frame["constant_share"] == 1).sum())
        if constant:
            found.append(
                f"{several(constant, 'result')} on features that are the same for all training images: the head "
                "learnt nothing from them"
            )
    if "precision" in frame:
        counts = frame["precision"].dropna().value_counts()
        if len(counts) > 1:
            parts = ", ".join(f"{count} in {precision}" for precision, count in counts.items())
            found.append(
                f"passes through the backbone in different precisions ({parts}): features differ by up to about "
                "1 %, so compare within one precision, or set features.precision"
            )
    return found


def to_html(tables: Tables) -> Markup:
    """Returns the section's content."""
    return render(
        "trust.html",
        warnings=warnings(tables),
        data=tables.data,
        checked=tables.warnings is not None,
        sheets=[found for one in tables.sheets if (found := _sheet(one))],
    )


class Row(NamedTuple):
    """Images of a class."""

    name: str | None  # None: images without a label
    images: int
    picture: Sheet


class Samples(NamedTuple):
    """Sample images of a data set."""

    data: str
    classes: int
    rows: list[Row]


def _sheet(given: Mapping[str, Any]) -> Samples | None:
    """Returns a data set's pictures, without what is no picture."""
    rows = [
        Row(row["name"], row["images"], picture)
        for row in given["rows"]
        if (picture := sheet(row["picture"])) is not None
    ]
    return Samples(given["data"], given["classes"], rows) if rows else None
