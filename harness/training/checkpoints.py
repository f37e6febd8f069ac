"""Where a training run keeps its checkpoints: the newest and the one before, each an artifact with checksums.

Ray Train's workers and the calling process write the same, so that either resumes what the other began.
"""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

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
    def newest(self, without: Collection[str] = ()) -> Iterator[Path | None]:
        """Yields a folder with the newest checkpoint that is whole, None if there is none.

        Files named in `without` are not needed. Damaged checkpoints are removed, which is said.
        """
        found = [(key, manifest) for key in self._keys if (manifest := self._store.manifest(KIND, key))]
        with ExitStack() as stack:
            for key, manifest in sorted(found, key=lambda one: -one[1]["step"]):
                names = [name for name in manifest["files"] if name not in without]
                try:
                    folder = stack.enter_context(self._store.opened(KIND, key, names))
                except Damaged as error:
                    self._store.discard(KIND, key)
                    step = manifest["step"]
                    self._say(
                        f"the checkpoint of step {step} is damaged ({error}): training resumes before it"
                    )
                    continue
                self._newest = key
                yield folder
                return
            yield None

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
