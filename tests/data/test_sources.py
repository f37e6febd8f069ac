"""The contract of data sets, for every registered one."""

import shutil
from pathlib import Path

import pytest
from images import config, parquet, png, tree
from layouts import arrays, cifar10, columns_of, lines, listed, saved, shards

from harness.data.config import SOURCES, DataConfig
from harness.testing.datasets import DataSetContract


def written(tmp_path, name):
    """Returns the configuration of twenty images of two classes, as the data set `name` reads them."""
    if name == "digits":
        return DataConfig()
    if name == "folder":
        tree(tmp_path, [f"{kind}/{number}.png" for kind in ("dog", "cat") for number in range(10)])
        return config(tmp_path, name=name)
    if name == "arrow":
        return config(saved(tmp_path / "pets"), name=name)
    if name == "webdataset":
        return config(shards(tmp_path, {"train-0": 8, "train-1": 6, "test-0": 6}), name=name)
    if name == "csv":
        return config(listed(tmp_path, {"all": 20}), name=name)
    if name == "json":
        return config(lines(tmp_path), name=name)
    if name == "npz":
        return config(arrays(tmp_path / "a.npz", {"train": 14, "test": 6}), name=name)
    if name == "cifar":
        return config(cifar10(tmp_path), name=name)
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
        place = Path(config.path or "")
        if config.name == "digits":
            super().change(config)
        elif config.name == "folder":
            (place / "cat" / "3.png").write_bytes(png(99))
        elif config.name == "csv":
            (place / "images" / "all-3.png").write_bytes(png(99))
        elif config.name == "json":
            (place / "3.png").write_bytes(png(99))
        elif config.name == "arrow":
            shutil.rmtree(place)
            columns_of(20, start=1).save_to_disk(place)
        elif config.name == "webdataset":
            shards(place, {"test-0": 6}, start=15)
        elif config.name == "npz":
            arrays(place, {"train": 15, "test": 6})
        elif config.name == "cifar":
            shutil.copy(place / "data_batch_1", place / "test_batch")
        else:
            parquet(place / "test.parquet", [png(n) for n in range(21, 29)], [0, 1] * 4)


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
