"""Whatever a user writes where a path is expected is a path, or is not: nothing is raised."""

import pytest

from harness.core.paths import existing_file, existing_folder, existing_path, path_of


@pytest.mark.parametrize("text", ["x" * 5000, "~nobody-of-that-name/x", "a\0b", ""])
def test_what_is_no_path_is_none(text):
    assert path_of(text) is None
    assert existing_path(text) is None


def test_files_and_folders_are_told_apart(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    assert existing_path(str(file)) == existing_file(str(file)) == file
    assert existing_folder(str(file)) is None
    assert existing_folder(str(tmp_path)) == tmp_path
    assert existing_file(str(tmp_path)) is None
    assert path_of(str(tmp_path / "none")) == tmp_path / "none"
    assert existing_path(str(tmp_path / "none")) is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert existing_file("~/file") == file
