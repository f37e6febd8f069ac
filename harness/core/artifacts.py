"""Artifacts: folders named by the fingerprint of what made them, published atomically, verified when read.

artifacts/KIND/KEY/manifest.json     its files with sizes and checksums: written last, by one publisher only
artifacts/KIND/KEY/<files>           on a disk
artifacts/KIND/KEY/PLACE/<files>     on an object store: each publisher has its own folder, named in the manifest

An artifact exists if and only if its manifest can be read; listings are never relied on. A machine reads an object
store through a bounded cache on its disk.
"""

import errno
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.core.cache import NodeCache, cache_bytes, cache_folder
from harness.core.fingerprint import checksum, fingerprint
from harness.core.lease import lease
from harness.core.leftovers import scratch_folder
from harness.core.sealed import sealed, unsealed
from harness.core.storage import Storage

MANIFEST = "manifest.json"
AT_ONCE = 200  # manifests requested together
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a network file system without locks


class Damaged(Exception):
    """An artifact's file is missing, truncated or altered. Whoever finds out makes the artifact again."""


class ArtifactStore:
    """Keeps artifacts under `artifacts/` of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._manifests: dict[str, dict[str, Any]] = {}
        self._verified: dict[str, tuple[Any, ...] | None] = {}  # identity of the verified file, by path

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self.storage, "_manifests": {}, "_verified": {}}

    @staticmethod
    def path(kind: str, key: str) -> str:
        """Returns the path of an artifact, relative to the storage."""
        return f"artifacts/{kind}/{key}"

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """Returns an artifact's manifest, or None if the artifact does not exist."""
        path = self.path(kind, key)
        if path not in self._manifests:
            try:
                manifest = _parsed(self.storage.read(f"{path}/{MANIFEST}"))
            except FileNotFoundError:
                return None
            if manifest is None:
                return None
            self._manifests[path] = manifest
        return self._manifests[path]

    def prefetch(self, wanted: Sequence[tuple[str, str]]) -> None:
        """Reads the manifests of these (kind, key) that exist on an object store, many at a time."""
        paths = list(dict.fromkeys(self.path(kind, key) for kind, key in wanted))
        paths = [path for path in paths if path not in self._manifests] if self.storage.local is None else []
        for begin in range(0, len(paths), AT_ONCE):
            part = paths[begin : begin + AT_ONCE]
            for path, content in zip(
                part, self.storage.read_many([f"{p}/{MANIFEST}" for p in part]), strict=True
            ):
                if content is not None and (manifest := _parsed(content)) is not None:
                    self._manifests[path] = manifest

    def file(self, kind: str, key: str, name: str) -> Path:
        """Returns a local path to one file of an artifact.

        Its checksum is verified the first time, and whenever the file is another one than the verified one or has
        been written to since. Raises `Damaged` if it does not match the manifest.
        """
        path = f"{self.path(kind, key)}/{name}"
        manifest = self.manifest(kind, key)
        if manifest is None or name not in manifest["files"]:
            raise Damaged(f"{path} is missing")
        place = self._place(kind, key, manifest)
        if path not in self._verified or self._verified[path] != _identity(place / name):
            if self.storage.local is None and not _matches(place / name, manifest["files"][name]):
                # this machine's copy is bad: the original may be good
                self._cache().forget(place.name)
                place = self._place(kind, key, manifest)
            if not _matches(place / name, manifest["files"][name]):
                raise Damaged(f"{path} does not match its checksum")
            self._verified[path] = _identity(place / name)
        return place / name

    def _place(self, kind: str, key: str, manifest: Mapping[str, Any]) -> Path:
        """Returns the folder with an artifact's files, on this machine's disk or on a shared one."""
        if self.storage.local is not None:
            return Path(self.storage.full(self.path(kind, key)))
        return self._cached(kind, key, manifest)

    def _cached(self, kind: str, key: str, manifest: Mapping[str, Any]) -> Path:
        """Returns this machine's copy of an artifact on an object store, which is fetched if missing."""
        path = self.path(kind, key)

        def fill(folder: Path) -> None:
            self._download(path, manifest, list(manifest["files"]), folder)

        size = sum(expected["bytes"] for expected in manifest["files"].values())
        return self._cache().folder_of(f"{kind}-{key}-{manifest['place']}", size, fill)

    def _download(self, path: str, manifest: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
        """Downloads files of an artifact on an object store; raises `Damaged` if one is not what it should be."""
        for name in names:
            try:
                self.storage.download(f"{path}/{manifest['place']}/{name}", folder / name)
            except FileNotFoundError:
                raise Damaged(f"{path}/{name} is missing") from None
            if not _matches(folder / name, manifest["files"][name]):
                raise Damaged(f"{path}/{name} does not match its checksum")

    @contextmanager
    def opened(self, kind: str, key: str, names: Sequence[str]) -> Iterator[Path]:
        """Yields a folder with these files of an artifact, verified: for what is read once.

        What is on an object store is downloaded past this machine's cache. Raises `Damaged`.
        """
        manifest = self.manifest(kind, key)
        if manifest is None:
            raise Damaged(f"{self.path(kind, key)} is missing")
        if self.storage.local is not None:
            for name in names:
                self.file(kind, key, name)
            yield self._place(kind, key, manifest)
            return
        with self.scratch() as folder:
            self._download(self.path(kind, key), manifest, names, folder)
            yield folder

    @staticmethod
    def _cache() -> NodeCache:
        return NodeCache(cache_folder(), cache_bytes())

    def publish(self, kind: str, key: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Publishes `folder` as the artifact by moving it; it must be on the storage's disk if that is local.

        If another publisher was first, theirs stays.
        """
        files = {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": checksum(file)}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        manifest = {**about, "files": files, "made_at": time.time(), "place": uuid.uuid4().hex[:12]}
        content = sealed(manifest, indent=1).encode()
        if self.storage.local is None:
            self._publish_remote(self.path(kind, key), folder, manifest, content)
            return
        (folder / MANIFEST).write_bytes(content)
        target = Path(self.storage.full(self.path(kind, key)))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and self.manifest(kind, key) is None:  # no manifest, or a truncated one
            self.storage.remove(self.path(kind, key))
        try:
            folder.rename(target)
        except OSError:
            if not (target / MANIFEST).exists():
                raise

    def _publish_remote(self, path: str, folder: Path, manifest: Mapping[str, Any], content: bytes) -> None:
        place = f"{path}/{manifest['place']}"
        for name in manifest["files"]:
            self.storage.upload(folder / name, f"{place}/{name}")
        if self.storage.create(f"{path}/{MANIFEST}", content):
            return
        [found] = self.storage.read_many([f"{path}/{MANIFEST}"])
        if found is None or _parsed(found) is None:
            self.storage.write(f"{path}/{MANIFEST}", content)
        else:
            self._remove_files(place, manifest)

    def discard(self, kind: str, key: str) -> None:
        """Removes an artifact that was found damaged, unless it has been made again since."""
        path = self.path(kind, key)
        seen = self._manifests.pop(path, None)
        self._verified = {p: known for p, known in self._verified.items() if not p.startswith(f"{path}/")}
        [content] = self.storage.read_many([f"{path}/{MANIFEST}"])
        now = None if content is None else _parsed(content)
        if seen is not None and now is not None and now["place"] != seen["place"]:
            return
        if self.storage.local is not None:
            self.storage.remove(path)
            return
        self.storage.remove(f"{path}/{MANIFEST}")
        if now is not None:
            self._remove_files(f"{path}/{now['place']}", now)

    def _remove_files(self, place: str, manifest: Mapping[str, Any]) -> None:
        for name in manifest["files"]:
            self.storage.remove(f"{place}/{name}")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a folder for work in progress, which is removed afterwards."""
        local = self.storage.local
        parent = Path(tempfile.gettempdir()) if local is None else local / "artifacts" / ".scratch"
        folder = scratch_folder(parent, "harness-")
        try:
            work = folder / "work"
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, kind: str, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Lets one process at a time make an artifact, across all machines that write here.

        The lock of a process that dies is released: on a disk at once, on an object store within a minute or so.
        `waiting` is called if another machine holds it.
        """
        if self.storage.local is None:
            with lease(self.storage, f"artifacts/.leases/{kind}-{key}.json", waiting):
                yield
            return
        folder = self.storage.local / "artifacts" / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f"{kind}-{key}.lock")
        try:
            held.acquire()
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            # A network file system without locks: a lock of this machine still keeps its own processes apart.
            held = FileLock(
                Path(tempfile.gettempdir()) / f"harness-{fingerprint([str(folder), kind, key])}.lock"
            )
            held.acquire()
        try:
            yield
        finally:
            held.release()


def _parsed(content: bytes) -> dict[str, Any] | None:
    """Returns a manifest, or None if it is truncated or altered."""
    try:
        manifest = unsealed(content)
        return manifest if {"files", "place"} <= set(manifest) else None
    except (ValueError, TypeError):
        return None


def _identity(file: Path) -> tuple[Any, ...] | None:
    """Returns what changes when a file is replaced or written to; None if it does not exist."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return file, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _matches(file: Path, expected: Mapping[str, Any]) -> bool:
    if not file.is_file() or file.stat().st_size != expected["bytes"]:
        return False
    return checksum(file) == expected["sha256"]
