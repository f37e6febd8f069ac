"""Where results live: any fsspec URL, with writes that are whole or absent."""

import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from harness.core.errors import UserError, did_you_mean

# File systems that fsspec reads only, or that live inside a file.
READ_ONLY = frozenset(
    ("data", "git", "github", "http", "https", "jupyter", "libarchive", "reference", "tar", "zip")
)


class Storage:
    """A folder on a disk or an object store. All paths are relative to it, with forward slashes."""

    def __init__(self, url: str) -> None:
        """Raises `UserError` if no installed file system answers to the URL's protocol."""
        self.url = str(url)
        if not self.url.strip() or "\0" in self.url:
            raise UserError(
                f"--results {self.url!r}: expected a folder or a URL, such as results or s3://bucket/results"
            )
        protocol = self.url.split("://", 1)[0] if "://" in self.url else "file"
        if protocol not in fsspec.available_protocols() or protocol in READ_ONLY:
            raise UserError(f"--results {self.url}: {did_you_mean(protocol, ['file', 'gs', 'memory', 's3'])}")
        try:
            _ = self._resolved
        except (
            ImportError,
            RuntimeError,
            ValueError,
        ) as error:  # an extra that is not there, ~nobody, half a URL
            raise UserError(f"--results {self.url}: {error}") from None
        if self.local is not None:
            self._check_folder(self.local)
        elif not self.root and protocol != "memory":
            raise UserError(f"--results {self.url}: names no bucket or folder")

    def _check_folder(self, place: Path) -> None:
        """Raises `UserError` if something that is no folder lies at `place` or above it."""
        if place == place.parent:
            raise UserError(f"--results {self.url}: the root of the file system is no place for results")
        try:
            there = next(path for path in (place, *place.parents) if path.exists())
        except OSError as error:  # a name that is too long
            raise UserError(f"--results {self.url[:60]}...: {error.strerror}") from None
        if not there.is_dir():
            raise UserError(f"--results {self.url}: {there} is not a folder; choose another")

    @cached_property
    def _resolved(self) -> tuple[Any, str]:
        url = self.url if "://" in self.url else str(Path(self.url).expanduser().absolute())
        return fsspec.core.url_to_fs(url)

    @property
    def fs(self) -> Any:
        """The fsspec file system."""
        return self._resolved[0]

    @property
    def root(self) -> str:
        """The folder's path inside the file system."""
        return self._resolved[1].rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    @property
    def local(self) -> Path | None:
        """The folder as a path on this machine, or None on an object store."""
        return Path(self.root) if "file" in _protocols(self.fs) else None

    def full(self, path: str) -> str:
        """Returns `path` as the file system names it; a path that leaves the folder is a `UserError`."""
        if path.startswith("/") or ".." in Path(path).parts:
            raise UserError(f"path {path!r} leaves the results folder")
        return f"{self.root}/{path}" if path else self.root

    def describe(self, path: str = "") -> str:
        """Returns `path` as people write it."""
        return self.full(path) if self.local else self.fs.unstrip_protocol(self.full(path))

    def exists(self, path: str) -> bool:
        """Says whether a file or folder is at `path`."""
        return bool(self.fs.exists(self.full(path)))

    def names(self, folder: str) -> list[str]:
        """Returns the names directly in `folder`, sorted; none if it does not exist."""
        try:
            self.fs.invalidate_cache(self.full(folder))
            found = self.fs.ls(self.full(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def read(self, path: str) -> bytes:
        """Returns a file's bytes; raises `FileNotFoundError`."""
        try:
            return self.fs.cat_file(self.full(path))
        except NotADirectoryError as error:  # a file where a folder should be: what is below it is not there
            raise FileNotFoundError(str(error)) from None

    def write(self, path: str, content: bytes) -> None:
        """Writes a file so that readers see the old content or the new, never a part."""
        full = self.full(path)
        if self.local is None:
            self.fs.pipe_file(full, content)
            return
        Path(full).parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{full}.{uuid.uuid4().hex}.part")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(full)
        finally:
            scratch.unlink(missing_ok=True)

    def upload(self, source: Path, path: str) -> None:
        """Copies a local file to `path`."""
        self.fs.makedirs(self.full(path).rsplit("/", 1)[0], exist_ok=True)
        self.fs.put_file(str(source), self.full(path))

    def download(self, path: str, target: Path) -> None:
        """Copies the file at `path` to a local `target`, whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            self.fs.get_file(self.full(path), str(scratch))
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """Removes a file or folder, if it is there."""
        try:
            self.fs.rm(self.full(path), recursive=True)
        except FileNotFoundError:
            return

    def check_writable(self) -> None:
        """Raises `UserError` if nothing can be written here. Leaves nothing behind."""
        if self.local is None:
            return
        place = self.local
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise UserError(f"results folder {self.local} cannot be written: {place} is not a folder")
        for name in ("artifacts", "rows", "training"):
            if (self.local / name).exists() and not (self.local / name).is_dir():
                raise UserError(
                    f"results folder {self.local} cannot be written: {name} in it is not a folder"
                )
        probe = place / f".{uuid.uuid4().hex}.probe"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"results folder {self.local} cannot be written: {error.strerror}") from None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
