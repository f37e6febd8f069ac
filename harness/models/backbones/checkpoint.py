"""Checkpoints in diffusers' format: checks their tensors against the configuration, and copies them."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import UserError
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
    options: Mapping[str, Any] | None = None,
) -> None:
    """Copies a pretrained backbone into `folder` for `load_denoiser`; `seed` asks for random network weights.

    Weights keep their numbers and type. `options` are those of the backbone's plan.
    """
    family = family_of(config)
    place = folder / family.folder
    with _as_pipeline(source, config, options or {}) as root:
        pipeline = Pipeline(root)
        if seed is None:
            place.mkdir()
            copy_weights(pipeline.network(network_folders()) / WEIGHTS, place)
        else:
            with torch.random.fork_rng(devices=[]), _default(dtype_of(config)):
                torch.manual_seed(seed)
                family.build(config).save_pretrained(place, safe_serialization=True)
        (place / CONFIG).write_text(json.dumps(dict(config)))
        family.write_parts(pipeline, folder)
    save_frame(family, process, folder)


@contextmanager
def _default(dtype: str) -> Iterator[None]:
    """Makes new tensors have a type, so that a large network is never held in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _as_pipeline(source: Path, config: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Path]:
    """Yields the folder of a pipeline whose weights have their usual names: `source`, or a temporary one of links."""
    if source.is_dir() and not options:
        yield source
        return
    family = family_of(config)
    with tempfile.TemporaryDirectory(prefix="harness-pipeline-") as scratch:
        folder = Path(scratch)
        if source.is_dir():
            _link(source, folder, options["variant"])
        else:
            root = Path(options["config"])
            held = single_file.parts_in(str(source), str(root))
            parts = family.parts(Pipeline(root), config).weights
            networks = {one.path.parent.name: one.network for one in parts if one.path.parent.name in held}
            network = Pipeline(root).network(network_folders()).name
            single_file.unpack(source, root, {network: family.network, **networks}, folder)
        yield folder


def _link(source: Path, folder: Path, variant: str) -> None:
    """Links a pipeline's files, with the weights of a variant under the names of those without."""
    forms = re.compile(rf"(\.{variant})?(-\d{{5}}-of-\d{{5}})?(\.{variant})?\.safetensors")
    for file in [*source.glob("*"), *source.glob("*/*")]:
        target = folder / file.relative_to(source)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        elif file.suffix != ".safetensors" and ".safetensors.index." not in file.name:
            target.parent.mkdir(exist_ok=True)
            os.symlink(file.resolve(), target)
    for place in [source, *(one for one in source.iterdir() if one.is_dir())]:
        for name in {forms.sub(".safetensors", one.name) for one in place.glob("*.safetensors")}:
            with suppress(UserError):  # of a part that is not read; all others are whole: the plan has looked
                copy_weights(place / name, folder / place.relative_to(source), variant, os.symlink)
