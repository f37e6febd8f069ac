"""Scratch folders that name their process, so that those of killed processes are recognised and removed."""

import errno
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from harness.core.fingerprint import fingerprint
from harness.core.processes import machine, started

ABANDONED_SECONDS = (
    3 * 86400.0
)  # after which the scratch folder of a process that cannot be asked for is removed


def scratch_folder(parent: Path, prefix: str) -> Path:
    """Creates an empty folder in `parent` for this process; first removes those that dead processes left there.

    A process of another machine, which cannot be asked for, counts as dead once nothing in its folder has changed for
    three days. Raises `OSError`.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent)) from None
    for left in parent.iterdir():
        if left.name.startswith(prefix) and _abandoned(left, left.name.removeprefix(prefix).split("-")):
            shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{prefix}{_here()}-{os.getpid()}-{started(os.getpid())}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return folder


def _here() -> str:
    return fingerprint(machine())[:8]


def _abandoned(folder: Path, name: list[str]) -> bool:
    match name:
        case [where, pid, born, _] if where == _here() and machine() and pid.isdecimal():
            return str(started(int(pid))) != born
        case [where, pid, _, _] if len(where) == 8 and pid.isdecimal():
            return time.time() - latest(folder) > ABANDONED_SECONDS
    return False


def latest(folder: Path) -> float:
    """Returns when a folder was last used or written, in seconds since 1970; 0 if it does not exist."""
    newest = 0.0
    with suppress(FileNotFoundError):  # of the folder itself
        newest = folder.stat().st_mtime
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):  # removed meanwhile
                newest = max(newest, os.stat(os.path.join(place, name)).st_mtime)
    return newest
