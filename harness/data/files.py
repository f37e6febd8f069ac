"""The files of a folder, on a disk or an object store, without what systems leave there."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.source import place_of

STAMPS = ("ETag", "etag", "mtime", "LastModified", "updated", "created")  # in the details of an object
# what systems leave in folders, like names that begin with a dot
JUNK = ("__macosx", "thumbs.db", "desktop.ini")


class Entry(NamedTuple):
    """A file: its path below the folder that was listed, its size, and what changes when it is written."""

    name: str
    size: int
    stamp: str  # of a local file its time, of an object its ETag or time


def kept(name: str) -> bool:
    """Returns whether a name is neither hidden nor left by a system."""
    return not name.startswith(".") and name.lower() not in JUNK


def entry_of(path: Path) -> Entry:
    """Returns a local file by its name alone."""
    about = path.stat()
    return Entry(path.name, about.st_size, str(about.st_mtime_ns))


def identity(of: str, entries: Iterable[Entry]) -> str | None:
    """Returns what identifies files, of a folder for example, while they are not written.

    None if some have nothing that changes when they are.
    """
    lines = [of]
    for name, size, stamp in entries:
        if not stamp:
            return None
        lines.append(f"{name}\0{size}\0{stamp}")
    return hashlib.blake2b("\n".join(lines).encode(errors="surrogateescape"), digest_size=12).hexdigest()


class Folder:
    """A local folder or the URL of one. Paths of folders and files below it are strings, with forward slashes."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or "/"

    @classmethod
    def of(cls, config: DataConfig, what: str) -> "Folder":
        """Returns the folder that `data.path` names; raises `UserError` if it is missing or no folder."""
        if config.path and "://" in config.path:
            found = cls(config.path)
            found._fs.invalidate_cache()  # of listings: objects may have changed since this process last looked
            if not found.exists():
                raise UserError(f"data.path {config.path}: no such folder on the object store")
            return found
        root = place_of(config, what)
        if not root.is_dir():
            raise UserError(
                f"data.path {config.path}: {'not a folder' if root.exists() else 'does not exist'}"
            )
        return cls(str(root))

    @property
    def remote(self) -> bool:
        """Whether it is on an object store."""
        return "://" in self.root

    @cached_property
    def _fs(self) -> Any:
        try:
            return fsspec.core.url_to_fs(self.root)[0]
        except (ImportError, ValueError) as error:
            raise UserError(f"data.path {self.root}: {error}") from None

    def exists(self) -> bool:
        """Returns whether anything is there."""
        try:
            return bool(self._fs.exists(self.root))
        except UserError:
            raise
        except Exception as error:  # no network, no permission, no credentials
            raise UserError(
                f"data.path {self.root}: cannot be read: {error or type(error).__name__}"
            ) from None

    def path(self, name: str) -> Path | str:
        """Returns a file below the folder as a path, or as a URL on an object store."""
        return f"{self.root}/{name}" if self.remote else Path(self.root, name)

    def below(self, name: str) -> "Folder":
        """Returns a folder below this one."""
        return Folder(f"{self.root}/{name}")

    def folders(self) -> list[str]:
        """Returns the sorted names of the folders directly in it."""
        return [name for name, folder in self._names() if folder]

    def names(self) -> list[str]:
        """Returns the sorted names of the files directly in it."""
        return [name for name, folder in self._names() if not folder]

    def _names(self) -> list[tuple[str, bool]]:
        if self.remote:
            found = self._fs.ls(self.root, detail=True)
            names = [
                (str(one["name"]).rstrip("/").rsplit("/", 1)[-1], one["type"] == "directory") for one in found
            ]
        else:
            with os.scandir(self.root) as entries:
                names = [(entry.name, entry.is_dir()) for entry in entries]
        return sorted((name, folder) for name, folder in names if kept(name))

    def entries(self) -> list[Entry]:
        """Returns all files below it, sorted by name; links are followed, but not to a folder that leads here."""
        if self.remote:
            prefix = len(self._fs._strip_protocol(self.root)) + 1
            found = {
                str(path)[prefix:]: about for path, about in self._fs.find(self.root, detail=True).items()
            }
            return sorted(
                Entry(name, int(about.get("size") or 0), _stamp(about))
                for name, about in found.items()
                if all(kept(part) for part in name.split("/"))
            )
        root, real = Path(self.root).absolute(), Path(self.root).resolve()
        above = {os.path.realpath(folder) for folder in (root, *root.parents, *real.parents)}
        return sorted(_walked(self.root, "", above))


def _stamp(about: Mapping[str, Any]) -> str:
    """Returns what changes when an object is written, by the names that object stores have for it."""
    return str(next((about[name] for name in STAMPS if about.get(name)), ""))


def _walked(folder: str, prefix: str, above: set[str]) -> Iterator[Entry]:
    """Yields the files below a folder; `above` are the real paths of the folders that lead to it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not kept(entry.name):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _walked(entry.path, f"{prefix}{entry.name}/", above | {real})
                continue
            try:
                about = entry.stat()
            except OSError:  # a link to nothing: reading it will say so
                yield Entry(prefix + entry.name, 0, "")
                continue
            yield Entry(prefix + entry.name, about.st_size, str(about.st_mtime_ns))
