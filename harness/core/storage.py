"""Storage of results: any fsspec URL, with atomic writes."""

import errno
import inspect
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from harness.core.errors import UserError, did_you_mean, full_disk_explained

# File systems that fsspec can only read, or that live inside a file.
READ_ONLY = frozenset(
    ("data", "git", "github", "http", "https", "jupyter", "libarchive", "reference", "tar", "zip")
)
# Errors that retrying will not change.
FINAL = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    UserError,
)
# Errors of a file system without hard links.
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL)
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between retries, on top of the file system's own


class Unanswered(UserError):
    """An object store failed for too long: not a fault of the input; the same command resumes once it responds."""

    status = 1


class Storage:
    """A folder on a disk or an object store. All paths are relative to it, with forward slashes.

    Whether a file exists is found out by reading it; listings are neither cached nor relied on. Failed requests to an
    object store are retried for about 15 seconds before they raise `Unanswered`.
    """

    def __init__(self, url: str) -> None:
        """Raises `UserError` if no installed file system supports the URL's protocol."""
        self.url = str(url)
        if not self.url.strip() or "\0" in self.url:
            raise UserError(
                f"--results {self.url!r}: expected a folder or a URL, such as results or s3://bucket/results"
            )
        if has_password(self.url):
            raise UserError(
                f"--results {without_password(self.url)}: do not put credentials in a URL, which tables and logs "
                "may show; set them in the environment"
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
        ) as error:  # a missing extra, ~nobody, an incomplete URL
            raise UserError(f"--results {self.url}: {error}") from None
        if self.local is not None:
            self._check_folder(self.local)
        elif not self.root and protocol != "memory":
            raise UserError(f"--results {self.url}: does not name a bucket or folder")
        elif set("*?[") & set(self.root):  # fsspec would treat them as patterns
            raise UserError(f"--results {self.url}: names on an object store must not contain *, ? or [")

    def _check_folder(self, place: Path) -> None:
        """Raises `UserError` if `place` or a parent of it is not a folder."""
        if place == place.parent:
            raise UserError(f"--results {self.url}: the root of the file system cannot hold results")
        try:
            there = next(path for path in (place, *place.parents) if path.exists())
        except OSError as error:  # a name that is too long
            raise UserError(f"--results {self.url[:60]}...: {error.strerror}") from None
        if not there.is_dir():
            raise UserError(f"--results {self.url}: {there} is not a folder; choose another")

    @cached_property
    def _resolved(self) -> tuple[Any, str]:
        url = self.url if "://" in self.url else str(Path(self.url).expanduser().absolute())
        return fsspec.core.url_to_fs(url, use_listings_cache=False)

    @property
    def fs(self) -> Any:
        """The fsspec file system."""
        return self._resolved[0]

    @property
    def root(self) -> str:
        """The folder's path inside the file system."""
        return self._resolved[1].rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": str(self.local or self.url)}  # "~" and "." mean other folders on other machines

    @cached_property
    def _whole(self) -> dict[str, int]:
        """Returns the options that read a file in one request: s3fs would first ask for its size, then list."""
        read = getattr(self.fs, "_cat_file", self.fs.cat_file)
        return {"max_concurrency": 1} if "max_concurrency" in inspect.signature(read).parameters else {}

    @property
    def local(self) -> Path | None:
        """The folder as a path on this machine, or None on an object store."""
        return Path(self.root) if "file" in _protocols(self.fs) else None

    def full(self, path: str) -> str:
        """Returns `path` as a path of the file system; raises `UserError` for a path outside the folder."""
        if path.startswith("/") or ".." in Path(path).parts:
            raise UserError(f"path {path!r} is outside the results folder")
        return f"{self.root}/{path}" if path else self.root

    def describe(self, path: str = "") -> str:
        """Returns `path` for messages."""
        return self.full(path) if self.local else self.fs.unstrip_protocol(self.full(path))

    def first_read(self, path: str) -> bytes | None:
        """Returns a file's bytes, None if it does not exist; raises `UserError` at once if reading fails."""
        try:
            return self.fs.cat_file(self.full(path), **self._whole)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise UserError(f"{self.describe(path)}: not readable; restore or remove it") from None
        except Exception as error:  # no network, no permission, no credentials
            raise UserError(
                f"--results {self.url}: cannot be read: {error or type(error).__name__}"
            ) from None

    def exists(self, path: str) -> bool:
        """Returns whether a file or folder exists at `path`."""
        return bool(self._patiently(lambda: self.fs.exists(self.full(path))))

    def names(self, folder: str) -> list[str]:
        """Returns the sorted names directly in `folder`; for hints only, never to decide what exists."""
        try:
            self.fs.invalidate_cache(self.full(folder))
            found = self._patiently(lambda: self.fs.ls(self.full(folder), detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in found)

    def read(self, path: str) -> bytes:
        """Returns a file's bytes; raises `FileNotFoundError`."""
        try:
            return self._patiently(lambda: self.fs.cat_file(self.full(path), **self._whole))
        except NotADirectoryError as error:  # a file where a folder should be: nothing can be in it
            raise FileNotFoundError(str(error)) from None

    def read_many(self, paths: Sequence[str]) -> list[bytes | None]:
        """Returns the bytes of files, None for missing ones; an object store is asked for all at once."""
        found: dict[str, Any] = {}
        if self.local is None and len(paths) > 1:
            answers = self.fs.cat([self.full(path) for path in paths], on_error="return", **self._whole)
            found = {self.fs._strip_protocol(name): answer for name, answer in answers.items()}
        return [self._settled(path, found.get(self.full(path))) for path in paths]

    def _settled(self, path: str, answer: Any) -> bytes | None:
        """Returns an answer, after retrying if it was a failure."""
        if isinstance(answer, FileNotFoundError):
            return None
        return answer if isinstance(answer, bytes) else self._read_or_none(path)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """Writes a file so that readers see either the old content or the new, never a part."""
        if self.local is None:
            self._patiently(lambda: self.fs.pipe_file(self.full(path), content))
        else:
            self._write_local(path, content, Path.replace)

    def create(self, path: str, content: bytes) -> bool:
        """Writes a file unless it exists; returns whether it did. Of several writers exactly one succeeds.

        `content` should be unique to the writer: it identifies a request whose response was lost.
        """
        try:
            if self.local is None:
                self._patiently(lambda: self._create_remote(self.full(path), content))
            else:
                self._write_local(path, content, _link_or_copy)
        except FileExistsError:
            return self.local is None and self._read_or_none(path) == content
        return True

    def _create_remote(self, full: str, content: bytes) -> None:
        try:
            self.fs.pipe_file(full, content, mode="create")
        except OSError as error:
            # S3 names the condition that failed, which s3fs looks for; other S3-compatible stores may not.
            answer = getattr(error.__cause__, "response", {})
            if answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
                raise FileExistsError(full) from None
            raise

    def _write_local(self, path: str, content: bytes, place: Callable[[Path, str], Any]) -> None:
        full = self.full(path)
        Path(full).parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{full}.{uuid.uuid4().hex}.part")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            place(scratch, full)
        finally:
            scratch.unlink(missing_ok=True)

    def upload(self, source: Path, path: str) -> None:
        """Copies a local file to `path`."""
        if self.local is not None:
            Path(self.full(path)).parent.mkdir(parents=True, exist_ok=True)
        self._patiently(lambda: self.fs.put_file(str(source), self.full(path)))

    def download(self, path: str, target: Path) -> None:
        """Copies the file at `path` to a local `target`; after an error part of it may be there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._patiently(lambda: self.fs.get_file(self.full(path), str(target)))

    def remove(self, path: str) -> None:
        """Removes a file or folder if it exists. On a disk a folder disappears at once, even while it is read."""
        place = Path(self.full(path))
        if self.local is not None and place.is_dir():
            gone = place.with_name(f"{place.name}.{uuid.uuid4().hex}.gone")
            try:
                place.rename(gone)
            except FileNotFoundError:
                return
            shutil.rmtree(gone, ignore_errors=True)
            return
        try:
            self._patiently(lambda: self.fs.rm(self.full(path), recursive=True))
        except FileNotFoundError:
            return

    def _patiently(self, request: Callable[[], Any]) -> Any:
        """Retries a request to an object store that fails for a transient reason."""
        if self.local is not None:
            return request()
        for pause in PAUSES:
            try:
                return self._once(request)
            except FINAL:
                raise
            except Exception:  # each library has its own network errors
                time.sleep(pause)
        try:
            return self._once(request)
        except FINAL:
            raise
        except Exception as error:
            raise Unanswered(
                f"--results {self.url}: {error or type(error).__name__}; recorded results are kept; run the "
                "same command to resume"
            ) from error

    def _once(self, request: Callable[[], Any]) -> Any:
        """Makes a request; a full disk or a refusal becomes one line."""
        with full_disk_explained("this machine's cache of the object store"):
            try:
                return request()
            except PermissionError as error:
                raise UserError(f"--results {self.url}: permission denied: {error}") from error

    def check_writable(self) -> None:
        """Raises `UserError` if this storage cannot be written to. Leaves nothing behind."""
        if self.local is None:
            self._check_object_store()
            return
        place = self.local
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise UserError(f"results folder {self.local} cannot be written: {place} is not a folder")
        for name in ("artifacts", "rows"):
            if (self.local / name).exists() and not (self.local / name).is_dir():
                raise UserError(
                    f"results folder {self.local} cannot be written: {name} inside it is not a folder"
                )
        probes = [place / f".{uuid.uuid4().hex}.probe" for _ in range(2)]
        try:
            probes[0].touch()
            _link_or_copy(probes[0], str(probes[1]))
        except OSError as error:
            raise UserError(f"results folder {self.local} cannot be written: {error.strerror}") from None
        finally:
            for probe in probes:
                with suppress(OSError):
                    probe.unlink()

    def check_seen(self) -> None:
        """Raises `UserError` if this machine does not see the results that a sweep has started to write."""
        if self.first_read("rows/SCHEMA.json") is None:
            raise UserError(
                f"--results {self.url} is not the same folder on {socket.gethostname()}; "
                "give a folder that all machines of the cluster share, or a URL such as s3://bucket/results"
            )

    def _check_object_store(self) -> None:
        probe = f"rows/probe-{uuid.uuid4().hex}"
        try:
            self.fs.pipe_file(self.full(probe), b"")
            self.fs.rm_file(self.full(probe))
        except (
            Exception
        ) as error:  # permission, bucket, credentials, network: each library has its own errors
            raise UserError(
                f"--results {self.url}: cannot be written: {error or type(error).__name__}"
            ) from None


def _link_or_copy(scratch: Path, full: str) -> None:
    """Gives a file a second name unless that is taken; copies it where the file system has no hard links."""
    try:
        os.link(scratch, full)
    except FileExistsError:
        raise
    except OSError as error:  # exFAT, SMB and many FUSE file systems; the error differs
        if error.errno not in NO_LINKS:
            raise
        with open(full, "xb") as file:
            file.write(scratch.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def has_password(url: str) -> bool:
    """Returns whether a URL contains a password, as in ftp://me:secret@host."""
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


def without_password(url: str) -> str:
    """Returns `url` with its password masked."""
    return url.replace(f":{urlsplit(url).password}@", ":***@", 1) if has_password(url) else url


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
