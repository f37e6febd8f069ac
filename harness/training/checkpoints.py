"""Where a training run keeps its checkpoints: the newest and the one before, each an artifact with checksums.

Ray Train's workers and the calling process write the same, so that either resumes what the other began.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.artifacts import ArtifactStore, Damaged

KIND = "checkpoint"


class Checkpoints:
    """The checkpoints of the run `name`."""

    def __init__(
        self, store: ArtifactStore, name: str, say: Callable[[str], None] = lambda line: None
    ) -> None:
        """`say` is told of checkpoints that turn out to be damaged."""
        self._store, self._say = store, say
        self._keys = [f"{name}-{slot}" for slot in "ab"]
        self._newest: str | None = None  # the key of the newest

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """Yields the folder of the newest checkpoint that is whole, None if there is none.

        Damaged ones are removed, which is said.
        """
        found = [(key, manifest) for key in self._keys if (manifest := self._store.manifest(KIND, key))]
        for key, manifest in sorted(found, key=lambda one: -one[1]["step"]):
            folder = self._whole(key, manifest)
            if folder is not None:
                self._newest = key
                yield folder
                return
        yield None

    def _whole(self, key: str, manifest: dict[str, Any]) -> Path | None:
        try:
            paths = [self._store.file(KIND, key, name) for name in manifest["files"]]
        except Damaged as error:
            self._store.discard(KIND, key)
            self._say(
                f"the checkpoint of step {manifest['step']} is damaged ({error}): training resumes before it"
            )
            return None
        return paths[0].parent

    def save(self, write: Callable[[Path], None], step: int) -> None:
        """Stores the checkpoint of `step` that `write(folder)` writes; the last one stays beside it."""
        key = next(one for one in self._keys if one != self._newest)
        with self._store.scratch() as folder:
            write(folder)
            for file in folder.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            self._store.discard(KIND, key)
            self._store.publish(KIND, key, folder, {"step": step})
        self._newest = key

    def remove(self) -> None:
        """Removes all of them."""
        for key in self._keys:
            self._store.discard(KIND, key)
