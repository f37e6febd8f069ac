"""Weights that are published as pickles of PyTorch, rewritten as safetensors. Only tensors are read from them."""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.backbones.weight_files import PICKLES, SAFETENSORS

WEIGHTS = re.compile(
    r"(diffusion_)?pytorch_model([.-].*)?\.bin"
)  # in folders that diffusers and transformers wrote
INDEX = ".bin.index"


def convert(given: str, to: str) -> list[str]:
    """Writes a file of weights, or a folder with all that is in it, as safetensors; returns what was done, in lines.

    Names are those that diffusers and transformers give safetensors. Raises `UserError` for a pickle that holds more
    than tensors, and for a target that is not empty.
    """
    source, folder = Path(given).expanduser(), Path(to).expanduser()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to {folder}: not an empty folder; choose another")
    if source.suffix == SAFETENSORS:
        raise UserError(f"{source}: safetensors already, which need no conversion; set backbone.path to it")
    if source.is_file():
        read = _tensors(source)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{source.stem}{SAFETENSORS}"
        save_file(read, target, {"format": "pt"})
        return [f"wrote {target}"]
    files = sorted(file for file in source.rglob("*") if file.is_file() and folder not in file.parents)
    if not any(WEIGHTS.fullmatch(file.name) for file in files):
        raise UserError(
            f"{source}: holds no weights diffusion_pytorch_model.bin or pytorch_model.bin; give a file"
        )
    return [line for file in files if (line := _one(file, folder / file.relative_to(source).parent))]


def _one(file: Path, folder: Path) -> str | None:
    """Converts or copies a file of a folder; returns what was done, unless it was only copied."""
    folder.mkdir(parents=True, exist_ok=True)
    if WEIGHTS.fullmatch(file.name):
        target = folder / _renamed(file.name)
        if (file.parent / target.name).is_file():
            return f"left out {file}: {target.name} is there already"
        save_file(_tensors(file), target, {"format": "pt"})
        return f"wrote {target}"
    if file.suffix in PICKLES:
        return f"left out {file}: not a file of weights that diffusers or transformers wrote"
    if INDEX in file.name and not (file.parent / _renamed(file.name)).is_file():
        listed = read_json(file)
        listed["weight_map"] = {name: _renamed(shard) for name, shard in listed["weight_map"].items()}
        (folder / _renamed(file.name)).write_text(json.dumps(listed))
        return None
    shutil.copyfile(file, folder / file.name)
    return None


def _renamed(name: str) -> str:
    """Returns the name that safetensors have: `model.safetensors` of `pytorch_model.bin`."""
    name = re.sub(r"^pytorch_model", "model", name)
    return (
        name.replace(INDEX, f"{SAFETENSORS}.index")
        if INDEX in name
        else f"{name[: -len('.bin')]}{SAFETENSORS}"
    )


def opened(path: Path) -> Any:
    """Returns what a pickle holds: tensors, mapped to the file where it allows, and plain values.

    Among these are the arguments of training scripts, an `argparse.Namespace`. Raises `UserError` for all else.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # other files fail in many ways
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: cannot be read without running code in it: {reason}; look for a safetensors copy of it"
        ) from None


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a pickle, none of them sharing memory; raises `UserError` if it holds anything else."""
    found = opened(path)
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        held = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__
        raise UserError(
            f"{path}: not a dictionary of tensors, nor one with a 'state_dict' of them: holds {held}"
        )
    seen: set[int] = set()
    for name, one in found.items():
        place = one.untyped_storage().data_ptr()
        found[name] = one.contiguous().clone() if place in seen else one.contiguous()
        seen.add(place)
    return found
