"""Checkpoints in diffusers' format: checks their tensors against the configuration, and copies them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models.autoencoders.autoencoder import autoencoder_of
from harness.models.backbones import single_file
from harness.models.backbones.denoiser import save_frame
from harness.models.backbones.family import dtype_of, family_of, network_folders
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Pipeline
from harness.models.backbones.shapes import mismatches, shapes_of
from harness.models.backbones.weight_files import copy_weights, tensors
from harness.models.noise_processes.process import NoiseProcess

RENAMED = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def check_tensors(places: Sequence[str], kind: str, config: Mapping[str, Any]) -> None:
    """Raises `UserError`, naming the first tensors, unless files together hold exactly those of a network.

    `kind` is the "module:class" of a diffusers network. Only headers are read. Plans run this in another process, so
    arguments are JSON.
    """
    files = [Path(place) for place in places]
    path = files[0] if len(files) == 1 else files[0].parent
    found = {name: one.shape for name, one in tensors(files).items()}
    wanted = shapes_of(kind, config, f"{files[0].parent / CONFIG}")
    problems = mismatches(
        {_today(name, wanted): shape for name, shape in found.items()}, wanted, "config.json says"
    )
    if problems:
        raise UserError(f"{path}: the tensors are not those of config.json: {problems}")


def _today(name: str, wanted: Mapping[str, Any]) -> str:
    """Returns diffusers' current name of an attention tensor, as diffusers itself does for old files."""
    for now, before in RENAMED.items():
        if name not in wanted and before in name and name.replace(before, now) in wanted:
            return name.replace(before, now)
    return name


def copy_pipeline(
    source: Path,
    config: Mapping[str, Any],
    process: NoiseProcess,
    folder: Path,
    seed: int | None,
    reading: Mapping[str, Any] | None = None,
) -> None:
    """Copies a pretrained backbone into `folder` for `load_denoiser`; `seed` asks for random network weights.

    Weights keep their numbers and type. `reading` is that of the backbone's plan.
    """
    pipeline = Pipeline.around(source, network_folders())._replace(**(reading or {}))
    family = family_of(config)
    place = folder / family.folder
    if seed is None:
        _write_weights(pipeline, pipeline.network(network_folders()), family.network, config, place)
    else:
        write_random(config, place, seed)
    (place / CONFIG).write_text(json.dumps(dict(config)))
    part = next((one for name in family.autoencoders if (one := pipeline.part(name))), None)
    if part is not None:
        copy_autoencoder(pipeline, part, folder / part.name)
    save_frame(family, process, folder)


def write_random(config: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Writes a network with random weights of a seed into the new `folder`."""
    with torch.random.fork_rng(devices=[]), _default(dtype_of(config)):
        torch.manual_seed(seed)
        family_of(config).build(config).save_pretrained(folder, safe_serialization=True)


def copy_autoencoder(pipeline: Pipeline, source: Path, folder: Path) -> None:
    """Copies an autoencoder from `source` into the new `folder`, its configuration as its kind reads it."""
    found = read_json(source / CONFIG)
    kind = autoencoder_of(found)
    config = kind.read(found, source / CONFIG)
    _write_weights(pipeline, source, kind.network, config, folder)
    (folder / CONFIG).write_text(json.dumps(config))


def _write_weights(
    pipeline: Pipeline, source: Path, network: str, config: Mapping[str, Any], folder: Path
) -> None:
    """Writes the weights of a part, from its folder `source` or from the pipeline's single file."""
    folder.mkdir()
    own = source == pipeline.network(network_folders())
    if pipeline.checkpoint is not None and (own or single_file.holds(pipeline.checkpoint, str(source))):
        single_file.write(Path(pipeline.checkpoint), network, config, folder / WEIGHTS)
    else:
        copy_weights(source / WEIGHTS, folder, pipeline.variant)


@contextmanager
def _default(dtype: str) -> Iterator[None]:
    """Makes new tensors have a type, so that a large network is never held in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)
