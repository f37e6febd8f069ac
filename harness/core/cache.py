"""One machine's cache of an object store on its own disk: whole artifacts, the least recently used evicted first."""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from harness.core.errors import UserError
from harness.core.leftovers import latest

DEFAULT_GIGABYTES = 50.0
# what else is in the folder: what `harness.data.index` and `harness.models.backbones.weight_files` know of files
KEPT_APART = ("locks", "index", "weights")
ABANDONED_SECONDS = 3600.0  # a download that has not grown for this long belongs to a dead process


def cache_folder() -> Path:
    """Returns the cache folder of this machine: HARNESS_CACHE, or ~/.cache/harness."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache" / "harness")


def cache_bytes() -> int:
    """Returns the size limit of the cache: HARNESS_CACHE_GB, by default 50. Raises `UserError` if it is invalid."""
    given = os.environ.get("HARNESS_CACHE_GB") or DEFAULT_GIGABYTES
    try:
        size = float(given)
    except ValueError:
        size = -1.0
    if not 0 < size < float("inf"):
        raise UserError(f"HARNESS_CACHE_GB={given}: expected a number of gigabytes, such as 50")
    return int(size * 1e9)


class NodeCache:
    """Folders by name, at most `limit` bytes in total, shared by all processes on this machine."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def folder_of(self, name: str, size: int, fill: Callable[[Path], None]) -> Path:
        """Returns the folder `name`; if it is missing, `fill(empty_folder)` writes its `size` bytes.

        One process at a time fills a folder. Raises `UserError` if it is larger than the limit, and whatever `fill`
        raises; nothing is left behind then.
        """
        place = self.folder / name
        if self._touched(place):
            return place
        if size > self.limit:
            raise UserError(
                f"an artifact of {size / 1e9:.1f} GB does not fit in this machine's cache of "
                f"{self.limit / 1e9:.1f} GB; raise HARNESS_CACHE_GB"
            )
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "locks" / f"{name}.lock"):
            if not self._touched(place):
                part = self._reserve(name, size)
                try:
                    fill(part)
                    part.rename(place)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        return place

    def forget(self, name: str) -> None:
        """Removes a copy that turned out to be damaged."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _reserve(self, name: str, size: int) -> Path:
        """Makes room for `size` bytes, and an empty folder whose name reserves them."""
        part = self.folder / f"{name}.{size}.{uuid.uuid4().hex}.part"
        with FileLock(self.folder / "locks" / "room.lock"):
            self._make_room(size)
            part.mkdir()
        return part

    def _make_room(self, size: int) -> None:
        found = []
        for place in self.folder.iterdir():
            if place.name in KEPT_APART:
                continue
            if place.suffix == ".part" and time.time() - latest(place) > ABANDONED_SECONDS:
                shutil.rmtree(place, ignore_errors=True)
                continue
            held = int(place.name.split(".")[-3]) if place.suffix == ".part" else _size(place)
            found.append((place.suffix == ".part", latest(place), held, place))
        used = sum(held for _, _, held, _ in found)
        for under_way, _, held, place in sorted(found):
            if used + size <= self.limit or under_way:
                return
            shutil.rmtree(place, ignore_errors=True)
            used -= held

    @staticmethod
    def _touched(place: Path) -> bool:
        """Returns whether a folder exists, and marks it as in use."""
        try:
            os.utime(place)
        except FileNotFoundError:
            return False
        return True


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
