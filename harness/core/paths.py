"""Paths given by users: any text may occur where a path is expected."""

from pathlib import Path


def path_of(text: str) -> Path | None:
    """Returns a text as a path with ~ expanded, whether it exists or not.

    None if it cannot be a path: empty, too long, with a null character, or of an unknown user.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return path if text and "\0" not in text else None


def existing_path(text: str) -> Path | None:
    """Returns the file or folder that a text names, None if it does not exist. Never raises."""
    path = path_of(text)
    return path if path is not None and path.exists() else None


def existing_folder(text: str) -> Path | None:
    """Returns the folder that a text names, None if there is no such folder. Never raises."""
    path = path_of(text)
    return path if path is not None and path.is_dir() else None


def existing_file(text: str) -> Path | None:
    """Returns the file that a text names, None if there is no such file. Never raises."""
    path = path_of(text)
    return path if path is not None and path.is_file() else None
