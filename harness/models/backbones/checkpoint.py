"""Checkpoints in diffusers' format: checks their tensors against the configuration, and copies them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.registry import load_attribute
from harness.models.autoencoders.autoencoder import autoencoder_of
from harness.models.backbones.denoiser import save_frame
from harness.models.backbones.family import family_of, network_folders
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Pipeline
from harness.models.noise_processes.process import NoiseProcess

RENAMED = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
NULL_LABEL = "class_embedder.embedding_table.weight"  # its last row is the null label


def check_tensors(place: str, kind: str, config: Mapping[str, Any]) -> None:
    """Raises `UserError`, naming the first tensors, unless a file holds exactly those of a network.

    `kind` is the "module:class" of a diffusers network. Plans run this in another process, so arguments are JSON.
    """
    path, name_of_kind = Path(place), kind.rpartition(":")[2]
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not the weights of a {name_of_kind}: {error}") from None
    with torch.device("meta"):
        try:
            network = load_attribute(kind).from_config(dict(config))
            wanted = {name: tuple(one.shape) for name, one in network.state_dict().items()}
        except Exception as error:  # diffusers raises many types for contradictory configurations
            raise UserError(
                f"{path.parent / 'config.json'}: no {name_of_kind} can be built from it: {error}"
            ) from None
    problems = mismatches(
        {_today(name, wanted): shape for name, shape in found.items()}, wanted, "config.json says"
    )
    if problems:
        raise UserError(f"{path}: the tensors are not those of config.json: {problems}")


def mismatches(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], says: str) -> str:
    """Describes how shapes by name differ from those wanted, with one example per type; "" if they do not."""
    texts = []
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    other = [name for name in wanted if name in found and found[name] != wanted[name]]
    if missing:
        texts.append(f"{missing[0]!r} is missing{_more(missing)}")
    if unexpected:
        texts.append(f"{unexpected[0]!r} is not expected{_more(unexpected)}")
    if other:
        name = other[0]
        texts.append(f"{name!r} has shape {[*found[name]]}, {says} {[*wanted[name]]}{_more(other)}")
        if name.endswith(NULL_LABEL) and found[name][0] + 1 == wanted[name][0]:
            texts.append("the missing last row is the null label: this checkpoint was trained without one")
    return "; ".join(texts)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _today(name: str, wanted: Mapping[str, Any]) -> str:
    """Returns diffusers' current name of an attention tensor, as diffusers itself does for old files."""
    for now, before in RENAMED.items():
        if name not in wanted and before in name and name.replace(before, now) in wanted:
            return name.replace(before, now)
    return name


def copy_pipeline(
    source: Path, config: Mapping[str, Any], process: NoiseProcess, folder: Path, seed: int | None
) -> None:
    """Copies a pretrained backbone into `folder` for `load_denoiser`; `seed` asks for random network weights."""
    pipeline, family = Pipeline.around(source, network_folders()), family_of(config)
    place = folder / family.folder
    if seed is None:
        place.mkdir()
        shutil.copyfile(pipeline.network(network_folders()) / WEIGHTS, place / WEIGHTS)
        (place / CONFIG).write_text(json.dumps(dict(config)))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            family.build(config).save_pretrained(place, safe_serialization=True)
    for name in family.autoencoders:
        if pipeline.part(name) is not None:
            copy_autoencoder(pipeline.root / name, folder / name)
            break
    save_frame(family, process, folder)


def copy_autoencoder(source: Path, folder: Path) -> None:
    """Copies an autoencoder into the new `folder`, its configuration as its kind reads it."""
    found = read_json(source / CONFIG)
    folder.mkdir()
    shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(autoencoder_of(found).read(found, source / CONFIG)))
