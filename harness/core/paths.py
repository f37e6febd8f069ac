"""Paths that users write: any text may stand where a path is expected."""

from pathlib import Path


def path_of(text: str) -> Path | None:
    """Returns the path that a text is, with ~ expanded, whether anything is there or not.

    None for what is no path: too long, of an unknown user, with a null character, or empty.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return path if text and "\0" not in text else None


def existing_path(text: str) -> Path | None:
    """Returns the file or folder that a text names; None if it names none that is there. Never raises."""
    path = path_of(text)
    return path if path is not None and path.exists() else None


def existing_folder(text: str) -> Path | None:
    """Returns the folder that a text names; None if it names none that is there."""
    path = path_of(text)
    return path if path is not None and path.is_dir() else None


def existing_file(text: str) -> Path | None:
    """Returns the file that a text names; None if it names none that is there."""
    path = path_of(text)
    return path if path is not None and path.is_file() else None
