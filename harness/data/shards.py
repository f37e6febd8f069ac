"""The pixels of a data set, decoded by whoever needs them first, in shards that are artifacts of their own."""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from harness.core.config import parse
from harness.core.errors import BadData, UserError
from harness.core.recent import Recent
from harness.core.stages import Code, Context, Stage, Work
from harness.data.config import SOURCES, DataConfig
from harness.data.decoding import Pixels, decoded, digest_of, encoded
from harness.data.source import Source

DECODING = Code("decoding", 1, "harness.data.shards:make")  # opening, resizing, cropping
SHARD_BYTES = 256 * 2**20  # of pixels
IN_MEMORY = 64 * 2**20  # bytes of pixels up to which a data set is held whole by those who read it
SECONDS_AN_IMAGE = 4e-3  # of one CPU core, for a photograph of half a megapixel
FILES_OPEN = 128  # of a process, which may open about a thousand
IMAGES = "images"  # the kind of the stages that hold pixels
FILE, DIGESTS, INDEX = "images.npy", "digests.safetensors", "index.safetensors"
CHANGED = "the images have changed since the sweep was planned; run the command again"


def shard_stages(dataset: Stage, count: int, pixels: Pixels, everywhere: bool) -> tuple[Stage, ...]:
    """Returns the stages that hold the pixels of a data set's `count` images.

    The planning machine decodes what fits into one shard, and what only it can read; else any machine does.
    """
    step = max(1, SHARD_BYTES // (pixels.channels * pixels.size**2))
    return tuple(
        _shard(dataset, begin, min(begin + step, count), pixels, local=count <= step or not everywhere)
        for begin in range(0, count, step)
    )


def _shard(dataset: Stage, begin: int, end: int, pixels: Pixels, local: bool) -> Stage:
    """Returns the stage of a shard's pixels; its sibling holds their digests, which are read without the pixels."""
    size = pixels.channels * pixels.size**2
    bare = Stage(
        kind="digests",
        code=DECODING,
        config={},  # all that it depends on is in the data set's fingerprint
        needs={"dataset": dataset},
        part={"images": [begin, end]},
        options={"shape": [pixels.channels, pixels.size, pixels.size]},
        local=local,
    )
    return replace(
        bare,
        kind=IMAGES,
        work=Work(seconds=SECONDS_AN_IMAGE * (end - begin), stored_bytes=size * (end - begin)),
        siblings=(bare,),
    )


def make(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the pixels of a shard's images, and publishes their digests; or writes these alone.

    Raises `BadData` naming the images that cannot be read, or if one has changed since planning.
    """
    began = time.monotonic()
    dataset = stage.needs["dataset"]
    begin, end = stage.part["images"]
    with safe_open(context.file(dataset, INDEX), framework="numpy") as file:
        parts_M, places_M, digests_M = (
            file.get_slice(name)[begin:end] for name in ("part", "place", "digest")
        )
    path = folder / FILE if stage.kind == IMAGES else Path(os.devnull)
    try:
        contents = _contents(open_source(dataset), parts_M, places_M, digests_M)
        digests = _write(decoded(contents, Pixels(**dataset.options["pixels"])), stage, path)
    except BadData:
        raise
    except UserError as error:
        raise BadData(f"{error} ({socket.gethostname()})") from None
    if stage.kind == "digests":
        save_file({"digests": digests}, folder / DIGESTS)
    for sibling in stage.siblings:
        if not context.has(sibling):
            place = folder.parent / sibling.key
            place.mkdir(exist_ok=True)
            save_file({"digests": digests}, place / DIGESTS)
            context.publish(sibling, place, time.monotonic() - began)


def _write(images: Iterable[np.ndarray], stage: Stage, path: Path) -> np.ndarray:
    """Writes images one after the other, as an array in NumPy's format; returns their digests, uint8 [N, 16]."""
    begin, end = stage.part["images"]
    shape = (end - begin, *stage.options["shape"])
    digests = []
    with path.open("wb") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, about)
        for image in images:
            image_CHW = np.ascontiguousarray(image)
            file.write(image_CHW.data)
            digests.append(np.frombuffer(digest_of(image_CHW), np.uint8))
    return np.stack(digests)


def open_source(dataset: Stage) -> Source:
    """Returns the source of a data set, listed once by a process. Raises `UserError` if it cannot be read."""
    values = dataset.options["data"]
    key = json.dumps(values, sort_keys=True), dataset.key

    def read() -> Source:
        config = parse(DataConfig, values, "data")
        source: Source = SOURCES.load(config.name)(config)
        return source

    return _sources.get(key, read)


_sources = Recent[Source]()


def _contents(
    source: Source, parts_M: np.ndarray, places_M: np.ndarray, digests_M: np.ndarray
) -> Iterator[tuple[bytes | np.ndarray, str]]:
    """Yields the encoded images of a shard, which are in the order of the source, and where each is."""
    wanted = 0
    while wanted < len(parts_M):
        part = int(parts_M[wanted])
        if part >= len(source.parts):
            raise BadData(CHANGED)
        for place, record in enumerate(source.parts[part].read()):
            if wanted == len(parts_M) or parts_M[wanted] != part:
                break
            if places_M[wanted] != place:
                continue
            content = encoded(record)
            if digest_of(content) != digests_M[wanted].tobytes():
                raise BadData(f"{record.where}: {CHANGED}")
            yield content, record.where
            wanted += 1
        else:
            if wanted < len(parts_M) and parts_M[wanted] == part:
                raise BadData(CHANGED)


class ImageArray(Protocol):
    """Images, uint8 [N, C, H, W]: in memory, or read when they are indexed by a number, an array or a slice."""

    shape: Any

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class _File(NamedTuple):
    """An opened shard: its file, and where its pixels begin."""

    descriptor: int
    offset: int


class StoredImages:
    """The images of a data set, uint8 [N, C, H, W], read from its shards when they are asked for.

    A missing shard is made. Indexing with a number gives one image, with an array or a slice as many.
    """

    def __init__(self, stage: Stage, context: Context) -> None:
        self._files: dict[int, _File] = {}
        self._shards, self._context = stage.parts, context
        count = self._shards[-1].part["images"][1]
        self.shape: tuple[int, ...] = (count, *self._shards[0].options["shape"])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if self._whole is not None:
            return self._whole[index]
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        places = np.asarray(index)
        places = np.flatnonzero(places) if places.dtype == bool else places.astype(np.int64)
        if ((places < -len(self)) | (places >= len(self))).any():
            raise IndexError(f"there are {len(self)} images")
        found = self._read(np.where(places < 0, places + len(self), places).reshape(-1))
        return found.reshape(*places.shape, *self.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # files are open in one process

    @cached_property
    def _whole(self) -> np.ndarray | None:
        """All images, if they are few."""
        if int(np.prod(self.shape)) > IN_MEMORY:
            return None
        return self._read(np.arange(len(self)))

    def _read(self, index_M: np.ndarray) -> np.ndarray:
        found = np.empty((len(index_M), *self.shape[1:]), np.uint8)
        size, step = found[0].nbytes if len(found) else 0, self._shards[0].part["images"][1]
        shards_M, places_M = np.divmod(index_M, step)
        for number, (shard, place) in enumerate(zip(shards_M.tolist(), places_M.tolist(), strict=True)):
            file = self._file(shard)
            got = os.preadv(
                file.descriptor, [memoryview(found[number]).cast("B")], file.offset + place * size
            )
            if got != size:
                raise OSError(f"a shard of images ends early: {self._shards[shard].short_name}")
        return found

    def _file(self, shard: int) -> _File:
        if shard not in self._files:
            if len(self._files) >= FILES_OPEN:
                os.close(self._files.pop(next(iter(self._files))).descriptor)
            path = self._context.file(self._shards[shard], FILE)
            descriptor = os.open(path, os.O_RDONLY)
            self._files[shard] = _File(descriptor, np.load(path, mmap_mode="r").offset)
        return self._files[shard]

    def __del__(self) -> None:
        for file in self._files.values():
            os.close(file.descriptor)


def pixel_digests(stage: Stage, context: Context) -> np.ndarray | None:
    """Returns the digests of all pixels of a data set's images, uint8 [N, 16]; None if some are not decoded yet."""
    digests = [sibling for shard in stage.parts for sibling in shard.siblings]
    context.store.prefetch([(one.kind, one.key) for one in digests])
    if not all(context.has(one) for one in digests):
        return None
    return np.concatenate([load_file(context.file(one, DIGESTS))["digests"] for one in digests])
