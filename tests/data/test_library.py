"""The library `datasets` shows nothing and asks nobody when local files are read."""

import socket

import pytest
from images import config, parquet, png
from layouts import saved, shards

from harness.core.errors import UserError
from harness.data.dataset import read


@pytest.fixture
def connections(monkeypatch):
    """The hosts that were asked for; none answers."""
    asked = []

    def fail(host, *arguments, **options):
        asked.append(host)
        raise OSError(f"no connection to {host}")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    return asked


@pytest.mark.parametrize("name", ["parquet", "arrow", "webdataset"])
def test_reading_local_files_shows_and_sends_nothing(tmp_path, connections, capfd, name):
    if name == "parquet":
        parquet(tmp_path / "data" / "train.parquet", [png(n) for n in range(20)], [0, 1] * 10)
    else:
        {"arrow": saved, "webdataset": shards}[name](tmp_path / "data", {"train": 14, "test": 6})
    capfd.readouterr()  # the library shows a bar where it saves
    assert len(read(config(tmp_path / "data", name=name), 0).dataset.labels) == 20
    assert connections == []
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_is_said_once(tmp_path, capfd):
    (tmp_path / "train.parquet").write_bytes(b"no table")
    with pytest.raises(UserError, match=r"train\.parquet: cannot be read: "):
        read(config(tmp_path), 0)
    assert capfd.readouterr() == ("", "")
