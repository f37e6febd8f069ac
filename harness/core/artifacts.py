"""Artifacts: folders named by the fingerprint of what made them, published whole, read by checksum.

artifacts/KIND/KEY/manifest.json     what is in it, with sizes and checksums: written last
artifacts/KIND/KEY/<files>
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.core.fingerprint import checksum, fingerprint
from harness.core.storage import Storage

MANIFEST = "manifest.json"


class Damaged(Exception):
    """An artifact's file is missing, truncated or altered. Whoever meets it makes the artifact again."""


class ArtifactStore:
    """Keeps artifacts below `artifacts/` of a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._manifests: dict[str, dict[str, Any]] = {}
        self._verified: dict[str, Path] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self.storage, "_manifests": {}, "_verified": {}}

    @staticmethod
    def path(kind: str, key: str) -> str:
        """Returns where an artifact lies, relative to the storage."""
        return f"artifacts/{kind}/{key}"

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """Returns an artifact's manifest, or None if the artifact does not exist."""
        path = self.path(kind, key)
        if path not in self._manifests:
            try:
                self._manifests[path] = json.loads(self.storage.read(f"{path}/{MANIFEST}"))
            except (FileNotFoundError, ValueError):
                return None
        return self._manifests[path]

    def file(self, kind: str, key: str, name: str) -> Path:
        """Returns a local path to one file of an artifact, its checksum verified once a process.

        Raises `Damaged` if it is not what the manifest says.
        """
        path = f"{self.path(kind, key)}/{name}"
        if path not in self._verified:
            manifest = self.manifest(kind, key)
            if manifest is None or name not in manifest["files"]:
                raise Damaged(f"{path} is not there")
            self._verified[path] = self._local_copy(path, manifest["files"][name])
        return self._verified[path]

    def _local_copy(self, path: str, expected: Mapping[str, Any]) -> Path:
        """Returns a verified file on this machine; from an object store it is downloaded and kept."""
        remote = self.storage.local is None
        local = _cache_folder(self.storage) / path if remote else Path(self.storage.full(path))
        if remote and not _matches(local, expected):
            try:
                self.storage.download(path, local)
            except FileNotFoundError:
                raise Damaged(f"{path} is not there") from None
        if not _matches(local, expected):
            raise Damaged(f"{path} differs from its checksum")
        return local

    def publish(self, kind: str, key: str, folder: Path, about: Mapping[str, Any]) -> None:
        """Makes `folder`, which must be on the storage's disk if that is local, the artifact; it moves there.

        Where somebody else was first, theirs stays.
        """
        files = {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": checksum(file)}
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        manifest = {**about, "files": files, "made_at": time.time()}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        path = self.path(kind, key)
        if self.storage.local is None:
            for name in [*files, MANIFEST]:
                self.storage.upload(folder / name, f"{path}/{name}")
            return
        target = Path(self.storage.full(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and self.manifest(kind, key) is None:  # no manifest, or one that was cut off
            shutil.rmtree(target)
        try:
            folder.rename(target)
        except OSError:
            if not (target / MANIFEST).exists():
                raise

    def discard(self, kind: str, key: str) -> None:
        """Removes a damaged artifact."""
        path = self.path(kind, key)
        self._manifests.pop(path, None)
        self._verified = {p: local for p, local in self._verified.items() if not p.startswith(f"{path}/")}
        self.storage.remove(path)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a folder for work in progress that is gone afterwards."""
        parent = None
        if self.storage.local is not None:
            parent = self.storage.local / "artifacts" / ".scratch"
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
            work = Path(folder) / "work"
            work.mkdir()
            yield work

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Lets one process of this machine at a time make an artifact. A process that dies gives it back."""
        folder = Path(tempfile.gettempdir()) / "harness-locks"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = fingerprint([self.storage.url, self.storage.root, kind, key])
        with FileLock(folder / f"{name}.lock"):
            yield


def _cache_folder(storage: Storage) -> Path:
    return Path.home() / ".cache" / "harness" / fingerprint([storage.url, storage.root])


def _matches(file: Path, expected: Mapping[str, Any]) -> bool:
    if not file.is_file() or file.stat().st_size != expected["bytes"]:
        return False
    return checksum(file) == expected["sha256"]
