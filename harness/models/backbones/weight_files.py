"""Files of weights as their authors publish them: which files hold a network, and what is in them. No torch.

A network `NAME.safetensors` is one file, or shards that `NAME.safetensors.index.json` lists; a variant such as fp16
is `NAME.fp16.safetensors`, or the shards of `NAME.safetensors.index.fp16.json`.
"""

import hashlib
import json
import math
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from harness.core.cache import cache_folder
from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.sealed import sealed, unsealed
from harness.core.storage import Storage
from harness.models import hub

SAFETENSORS = ".safetensors"
TEXT_WEIGHTS = "model.safetensors"  # the name of weights that transformers wrote
# bytes a number, by safetensors' names of types; others are those of quantised networks
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
BYTES = {**FLOATS, "I64": 8, "I32": 4, "I16": 2, "BOOL": 1}
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # by torch's names
MOST_HEADER = 100_000_000  # bytes, as safetensors itself allows
CHUNK = 1 << 22  # bytes read at once: fits in a processor's cache
SETTLED_NS = 2_000_000_000  # a file written less than this ago may be written again without another time
CONVERT = "python -m harness convert-weights"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
FOREIGN = {
    ".gguf": "GGUF, whose tensors are quantised, is not read; give the network in safetensors",
    ".onnx": "ONNX is not read; give the network as diffusers' save_pretrained writes it",
    ".msgpack": "weights of Flax; open them with an older diffusers (from_pretrained(..., from_flax=True)) and "
    "save them with save_pretrained",
    ".h5": "weights of TensorFlow; give the network as diffusers' save_pretrained writes it",
}
SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(\.\w+)?\.safetensors")


class Tensor(NamedTuple):
    """A tensor in a file: its type by safetensors' name, and where its bytes are."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numbers(self) -> int:
        """The number of its numbers."""
        return math.prod(self.shape)


class Content(NamedTuple):
    """What a file of weights holds: its SHA-256, and the first tensor with NaN or infinity, if one was found."""

    sha256: str
    not_finite: str | None


def single(name: str, variant: str | None) -> str:
    """Returns the name of one file with the weights `name`."""
    return name if variant is None else f"{name.removesuffix(SAFETENSORS)}.{variant}{SAFETENSORS}"


def index(name: str, variant: str | None) -> str:
    """Returns the name of the list of shards of the weights `name`."""
    return f"{name}.index.json" if variant is None else f"{name}.index.{variant}.json"


def patterns(pattern: str, variant: str | None) -> list[str]:
    """Returns the patterns of all files that may hold the weights `pattern`, without their index."""
    stem = pattern.removesuffix(SAFETENSORS)
    if variant is None:
        return [pattern, f"{stem}-?????-of-?????{SAFETENSORS}"]
    shards = [
        f"{stem}.{variant}-?????-of-?????{SAFETENSORS}",
        f"{stem}-?????-of-?????.{variant}{SAFETENSORS}",
    ]
    return [single(pattern, variant), *shards]


def weight_files(path: Path, variant: str | None = None, needed: bool = False) -> list[Path]:
    """Returns the files that hold the weights called `path`: itself, its shards, or those of a variant.

    Weights without this variant are taken as they are, unless it is `needed`. Raises `UserError` if some are missing,
    naming what lies there instead.
    """
    for one in dict.fromkeys([variant] if needed else [variant, None]):
        listed = path.parent / index(path.name, one)
        if listed.is_file():
            return [path.parent / name for name in _shards(listed)]
        if (path.parent / single(path.name, one)).is_file():
            return [path.parent / single(path.name, one)]
    raise UserError(_absent(path, variant))


def _shards(listed: Path) -> dict[str, list[str]]:
    """Returns the names of tensors by shard; raises `UserError` for missing ones."""
    table = read_json(listed).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table.values()):
        raise UserError(
            f"{listed}: has no table of tensors and shards 'weight_map'; copy or download it again"
        )
    shards: dict[str, list[str]] = {}
    for tensor, name in table.items():
        shards.setdefault(name, []).append(tensor)
    for name in shards:
        if Path(name).name != name or not name.endswith(SAFETENSORS):
            raise UserError(f"{listed}: the shard {name!r} is not a safetensors file beside it")
    missing = [name for name in shards if not (listed.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{listed}: lists {len(shards)} shards, but {missing[0]} is missing{_more(missing)}; "
            f"{_again(listed.parent / missing[0])}"
        )
    return dict(sorted(shards.items()))


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _again(path: Path) -> str:
    name = hub.repository(path)
    return f"run `hf download {name}` once while online" if name else "copy or download it again"


def _absent(path: Path, variant: str | None) -> str:
    """Returns why the weights are not there, and what to do."""
    folder, stem = path.parent, path.name.removesuffix(SAFETENSORS)
    there = sorted(one.name for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
    name = hub.repository(path)
    if name and all(one.endswith((".json", ".txt")) for one in there):
        return (
            f"{path}: not in the repository, or not downloaded yet: go online once; if it only has others, such as "
            f".bin, run `hf download {name} --local-dir FOLDER`, `{CONVERT} FOLDER --to NEW`, and give NEW"
        )
    known = _variants(path.name, there)
    if variant is not None:
        plain = single(path.name, None) in there or index(path.name, None) in there
        rather = [f"set backbone.variant={one}" for one in known[:1]] + ["leave backbone.variant out"] * plain
        if rather:
            return f"{folder}: has no weights of variant {variant!r}; {' or '.join(rather)}"
    elif known:
        return f"{path}: no such file, but there is a variant {known[0]}; set backbone.variant={known[0]}"
    shards = [one for one in there if (found := SHARD.fullmatch(one)) and found["stem"] == stem]
    if shards:
        return f"{folder}: holds {shards[0]} but not the list of shards, {path.name}.index.json; copy it too"
    return f"{path}: no such file{_instead(folder, there)}"


def _variants(name: str, there: Iterable[str]) -> list[str]:
    """Returns the variants in which the weights `name` lie among the files."""
    stem = re.escape(name.removesuffix(SAFETENSORS))
    forms = re.compile(
        rf"{stem}\.([A-Za-z]\w*)(-\d{{5}}-of-\d{{5}})?\.safetensors|{re.escape(name)}\.index\.(\w+)\.json"
    )
    return sorted({found[1] or found[3] for one in there if (found := forms.fullmatch(one))})


def _instead(folder: Path, there: Sequence[str]) -> str:
    """Returns what to do with the files that lie where weights should."""
    for one in there:
        if one.endswith(SAFETENSORS):
            return f", but {one}; if that file holds them, rename it"
    for one in there:
        if Path(one).suffix in PICKLES:
            whole = folder.parent if (folder.parent / "model_index.json").is_file() else folder
            return (
                f", but {one}, a pickle, which may run code when it is read; `{CONVERT} {whole} --to NEW` reads its "
                "tensors alone; then set backbone.path=NEW"
            )
        if Path(one).suffix in FOREIGN:
            return f", but {one}: {FOREIGN[Path(one).suffix]}"
    return "; save the model with save_pretrained(safe_serialization=True)"


def tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Returns the tensors of one network's files by name, from the headers alone.

    Raises `UserError` for what is no safetensors file, is cut off, is quantised, or is not as the index says.
    """
    found: dict[str, Tensor] = {}
    for file in files:
        here = header(file)
        twice = sorted(here.keys() & found.keys())
        if twice:
            raise UserError(f"{file}: {twice[0]!r} is also in another shard{_more(twice)}")
        found |= here
    return found


def check_shards(path: Path, variant: str | None) -> None:
    """Raises `UserError` unless every shard holds the tensors that the index of the weights `path` says it does."""
    listed = next(
        (
            file
            for one in dict.fromkeys([variant, None])
            if (file := path.parent / index(path.name, one)).is_file()
        ),
        None,
    )
    for name, wanted in _shards(listed).items() if listed else ():
        here = header(path.parent / name)
        missing = [tensor for tensor in wanted if tensor not in here]
        if missing:
            raise UserError(
                f"{path.parent / name}: {missing[0]!r} is missing{_more(missing)}, which {listed.name} says is in "  # type: ignore[union-attr]
                "this shard; copy or download both again"
            )


def metadata(path: Path) -> dict[str, str]:
    """Returns what a safetensors file says of itself. Raises `UserError` for any other file."""
    header(path)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, str] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def header(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by name. Raises `UserError` for any other file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else MOST_HEADER + 1
        if length > MOST_HEADER or start[8:9] not in (b"{", b""):
            raise UserError(f"{path}: not the weights: {_disguise(start)}")
        file.seek(8)
        text = file.read(length)
    if len(text) < length:
        raise UserError(
            f"{path}: is cut off: it ends after {size:,} bytes, within its header; {_again(path)}"
        )
    try:
        found = {
            name: Tensor(
                str(one["dtype"]),
                tuple(int(each) for each in one["shape"]),
                *(8 + length + int(each) for each in one["data_offsets"]),
            )
            for name, one in json.loads(text).items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the weights: its header is damaged: {error}; {_again(path)}") from None
    for name, one in found.items():
        if one.kind not in BYTES:
            raise UserError(
                f"{path}: {name!r} is stored as {one.kind}: quantised networks are not read; give one in float32, "
                "bfloat16 or float16"
            )
    places = sorted(found.values(), key=lambda one: (one.begin, one.end))
    ends = max((one.end for one in places), default=8 + length)
    if size < ends:
        raise UserError(f"{path}: is cut off: it has {size:,} of {ends:,} bytes; {_again(path)}")
    whole = size == ends and all(one.end == next.begin for one, next in pairwise(places))
    if not whole or any(one.end - one.begin != one.numbers * BYTES[one.kind] for one in places):
        raise UserError(f"{path}: not the weights: its tensors and its header do not agree; {_again(path)}")
    return found


def _disguise(start: bytes) -> str:
    """Returns what a file is that is called .safetensors, from its first bytes, and what to do."""
    again = "download the file itself again"
    if not start:
        return f"an empty file; {again}"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run `git lfs pull` where it was cloned"
    if start.lstrip().startswith(b"<"):
        return (
            f"an HTML page, saved in their place; {again}, after `hf auth login` if the model is restricted"
        )
    if start.startswith(b"GGUF"):
        return FOREIGN[".gguf"]
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return f"a pickle of PyTorch under this name; `{CONVERT} FILE --to FOLDER` writes it as safetensors"
    return f"no safetensors file; {again}"


def parameters(found: Mapping[str, Tensor]) -> int:
    """Returns how many floating-point numbers tensors hold."""
    return sum(one.numbers for one in found.values() if one.kind in FLOATS)


def kinds(found: Mapping[str, Tensor]) -> list[str]:
    """Returns torch's names of the floating-point types of tensors, sorted."""
    there = {one.kind for one in found.values()}
    return sorted(name for name, kind in NAMES.items() if kind in there)


def content(path: Path) -> Content:
    """Returns the checksum of a file of weights, and whether it is finite, without reading an unchanged file twice.

    The Hub names large files by their checksum, so one that lies in its cache as it was downloaded is not read at
    all, and whether it is finite is only known when it is opened. Any other is read once: the answer is kept on this
    machine (`HARNESS_CACHE`) with the file's size, times and inode.
    """
    known = hub.known_sha256(path)
    if known is not None:
        return Content(known, None)
    place, before = f"{fingerprint([str(path.resolve())])}.json", _identity(path)
    storage = cache_folder() / "weights"
    try:
        kept = unsealed((storage / place).read_bytes())
        if kept["identity"] == before:
            return Content(kept["sha256"], kept["not_finite"])
    except (OSError, ValueError, KeyError):
        pass
    found = _read(path)
    newest = max(before[1:3])
    if before == _identity(path) and newest < time.time_ns() - SETTLED_NS:
        with suppress(OSError, UserError):  # it is read again the next time
            Storage(str(storage)).write(place, sealed({"identity": before, **found._asdict()}).encode())
    return found


def _identity(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def _read(path: Path) -> Content:
    """Reads a file once, for both its checksum and the first tensor that is not finite."""
    found = header(path)
    places = sorted((one for one in found.items() if one[1].end > one[1].begin), key=lambda one: one[1].begin)
    digest, bad = hashlib.sha256(), None
    with path.open("rb", buffering=0) as file:
        for part in _chunks(file, places[0][1].begin if places else path.stat().st_size):
            digest.update(part)
        for name, tensor in places:
            for part in _chunks(file, tensor.end - tensor.begin):
                digest.update(part)
                if bad is None and tensor.kind in FLOATS and not _finite(part, tensor.kind):
                    bad = name
    return Content(digest.hexdigest(), bad)


def _chunks(file: BinaryIO, length: int) -> Iterator[memoryview]:
    """Yields the next bytes of a file; every chunk but the last has `CHUNK` bytes."""
    buffer = memoryview(bytearray(min(CHUNK, length)))
    while length:
        wanted, have = min(CHUNK, length), 0
        while have < wanted:
            got = file.readinto(buffer[have:wanted])  # type: ignore[attr-defined]
            if not got:
                raise UserError(f"{file.name}: was cut off while it was read")
            have += got
        length -= wanted
        yield buffer[:wanted]


# Where the exponent is in each type's bits: all ones in NaN and infinity alone.
EXPONENTS = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


def _finite(part: memoryview, kind: str) -> bool:
    bits, mask = EXPONENTS[kind]
    values_N = np.frombuffer(part, np.dtype(bits).newbyteorder("<"))
    return int((values_N & bits(mask)).max()) != mask


def checksums(files: Iterable[Path]) -> list[str]:
    """Returns the SHA-256 of each file, of weights as `content` does.

    Raises `UserError` for the first file of weights with a tensor that is known to hold NaN or infinity.
    """
    return [_sound(file) if file.suffix == SAFETENSORS else checksum(file) for file in files]


def _sound(path: Path) -> str:
    found = content(path)
    if found.not_finite is not None:
        raise UserError(
            f"{path}: {found.not_finite!r} holds NaN or infinity; such weights come of a training that diverged, "
            "or of a conversion to float16 that overflowed: give another checkpoint"
        )
    return found.sha256


def copy_weights(
    path: Path,
    folder: Path,
    variant: str | None = None,
    copy: Callable[[Path, Path], Any] = shutil.copyfile,
) -> None:
    """Copies the weights called `path` to `folder` under that name: one file, or shards with their index.

    `copy` may be another function of source and target. Raises `UserError` if some are missing.
    """
    files = [file.absolute() for file in weight_files(path, variant)]
    if len(files) == 1:
        copy(files[0], folder / path.name)
        return
    table, total, stem = {}, 0, path.name.removesuffix(SAFETENSORS)
    for number, file in enumerate(files, 1):
        name = f"{stem}-{number:05d}-of-{len(files):05d}{SAFETENSORS}"
        copy(file, folder / name)
        for tensor, about in header(file).items():
            table[tensor], total = name, total + about.end - about.begin
    listed = {"metadata": {"total_size": total}, "weight_map": table}
    (folder / index(path.name, None)).write_text(json.dumps(listed))
