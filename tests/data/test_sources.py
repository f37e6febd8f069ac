"""The contract of data sets, for every registered one."""

from pathlib import Path

import pytest
from images import config, parquet, png, tree

from harness.data.config import SOURCES, DataConfig
from harness.testing.datasets import DataSetContract


def written(tmp_path, name):
    """Returns the configuration of twenty images of two classes, as the data set `name` reads them."""
    if name == "digits":
        return DataConfig()
    if name == "folder":
        tree(tmp_path, [f"{kind}/{number}.png" for kind in ("dog", "cat") for number in range(10)])
        return config(tmp_path, name=name)
    if name == "parquet":
        parquet(tmp_path / "train.parquet", [png(n) for n in range(12)], [0, 1] * 6, names=["cat", "dog"])
        parquet(tmp_path / "test.parquet", [png(n) for n in range(20, 28)], [0, 1] * 4)
        return config(tmp_path)
    raise AssertionError(f"add data set {name!r} to `written`, or a class like `TestHub`")


class TestDataSets(DataSetContract):
    """Every registered data set that needs no network."""

    @pytest.fixture(params=[name for name in SOURCES.names() if name != "hub"])
    def config(self, request, tmp_path):
        return written(tmp_path, request.param)

    def change(self, config):
        if config.name == "digits":
            super().change(config)
        elif config.name == "folder":
            (Path(config.path) / "cat" / "3.png").write_bytes(png(99))
        else:
            parquet(Path(config.path) / "test.parquet", [png(n) for n in range(21, 29)], [0, 1] * 4)


class TestFolderOfSplits(DataSetContract):
    """A folder whose first level is the splits."""

    @pytest.fixture
    def config(self, tmp_path):
        sizes = {"train": 6, "VAL": 2, "test": 3}
        places = [
            f"{split}/{kind}/{n}.png"
            for split in sizes
            for kind in ("cat", "dog")
            for n in range(sizes[split])
        ]
        tree(tmp_path, places)
        return config(tmp_path, name="folder")

    def change(self, config):
        (Path(config.path) / "test" / "cat" / "0.png").write_bytes(png(99))
