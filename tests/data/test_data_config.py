"""The section `data:` of an experiment."""

import pytest

from harness.core.config import parse
from harness.core.errors import UserError
from harness.data.config import READS, SOURCES, DataConfig


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("folder", {"label_column": "kind"}),
        ("folder", {"revision": "main"}),
        ("digits", {"splits": {"train": "a"}}),
        ("npz", {"image_column": "x"}),
        ("csv", {"revision": "main"}),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(name, setting):
    with pytest.raises(UserError, match=f"data set '{name}' does not read {next(iter(setting))}"):
        parse(DataConfig, {"name": name, **setting}, "data")


@pytest.mark.parametrize("name", READS)
def test_what_a_source_reads_is_accepted(name):
    values = {"revision": "a", "image_column": "b", "label_column": "c", "splits": {"train": "d"}}
    values |= {"label_columns": ["e"], "label_separator": "|"}
    for key in READS[name]:
        parse(DataConfig, {"name": name, key: values[key]}, "data")


@pytest.mark.parametrize("other", ["label_column", "label_separator"])
def test_columns_of_classes_and_another_way_of_labelling_are_refused_together(other):
    with pytest.raises(UserError, match=f"label_columns names the columns of all classes; leave out {other}"):
        parse(DataConfig, {"name": "csv", "label_columns": ["cat"], other: "x"}, "data")


def test_each_of_our_own_sources_says_what_it_reads():
    assert set(READS) == set(SOURCES.names())
