"""Backbones in diffusers' format, by folder, single file or Hub id, checked completely at planning. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from harness.core.apart import apart
from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.paths import existing_file
from harness.models import hub
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.condition import Condition
from harness.models.backbones.family import family_of, hub_patterns, network_folders, read_network
from harness.models.backbones.foreign import refuse_foreign
from harness.models.backbones.pipeline import CONFIG, DTYPE, WEIGHTS, Parts, Pipeline, Weights
from harness.models.backbones.weight_files import (
    CONVERT,
    FOREIGN,
    PICKLES,
    SAFETENSORS,
    check_shards,
    checksums,
    header,
    kinds,
    parameters,
    tensors,
    weight_files,
)
from harness.models.noise_processes.process import NoiseProcess, process_of
from harness.models.noise_processes.schedule import FIELDS, Schedule

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # diffusers models have an owner


class PretrainedBackbone(Backbone, Condition):
    """A diffusers model trained elsewhere, by folder, single file or Hub id, under a condition if it takes one.

    The families are those of `harness.models.backbones.family.FAMILIES`; other packages may add further ones.
    """

    name: Literal["pretrained"] = "pretrained"
    path: str  # a folder that save_pretrained wrote (of a pipeline or its U-Net), a safetensors file, or a Hub id
    revision: str | None = None  # of a Hub id: a commit, tag or branch
    variant: str | None = Field(None, pattern=r"^[A-Za-z]\w*$")  # of the files, such as fp16
    torch_dtype: Literal["float32", "bfloat16", "float16", "auto"] = (
        "float32"  # in which the network is held in memory; auto: as stored
    )
    config: str | None = None  # of a single file: a pipeline of the same architecture, by folder or Hub id
    network: str | None = Field(None, pattern=r"^[\w.-]+$")  # its folder in the pipeline, such as unet_ema
    schedule: Schedule | None = None  # the noise that it was trained with; None: as its scheduler says
    trained_by: Literal["original", "diffusers"] | None = (
        None  # the code that trained a DiT; None: by the class that its config.json names
    )

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configurations, checks every tensor's name and shape and takes checksums of the weights.

        Of weights only headers are read, unless their checksum is not known yet.
        """
        source = self.source()
        pipeline = source.pipeline
        place = pipeline.network(network_folders())
        refuse_foreign(pipeline, place)
        config = read_network(place)
        if self.trained_by is not None:
            config = family_of(config).trained_by(config, self.trained_by)
            config = family_of(config).read(config, place / CONFIG)
        family = family_of(config)
        parts = family.parts(pipeline, config, size)
        noise, said = _noise(pipeline, self.schedule)
        process = family.process(noise, config, place / CONFIG, parts.map_size)
        check_images(place, parts, size, channels)
        own = Weights(place / WEIGHTS, family.network, config)
        files = {path: source.files(path, path == own.path) for path in (own.path, *parts.files)}
        for weights in (own, *parts.weights):
            source.check(weights, files[weights.path])
        config = {**config, **self._dtype(own.path, files[own.path])}
        every = [file for found in files.values() for file in found]
        sums = checksums(every)
        latents = parts.latents
        plan = BackbonePlan(
            config,
            process,
            str(pipeline.place or pipeline.root),
            fingerprint([config, process.config, latents and latents.config, *sums]),
            parts.map_size,
            latents=latents,
            root=str(pipeline.root),
            notes=(*pipeline.notes(source.folder, network_folders()), *said, *family.notes(config)),
            parameters=source.parameters(own, files[own.path]),
            reading=pipeline.reading,
        )
        return plan.under(self)

    def source(self) -> "Source":
        """Returns where the files are, downloaded if they are on the Hub. Raises `UserError`."""
        file = existing_file(self.path)
        if file is not None:
            return self._single(file)
        if self.config is not None:
            raise UserError(
                "backbone.config goes with backbone.path = a single safetensors file; leave it out for folders"
            )
        root = hub.local_folder("backbone", self.path, HUB_ID)
        if root is None:
            wanted = hub_patterns(self.variant, self.network)
            root = hub.snapshot("backbone", self.path, self.revision, wanted)
            there = [one.relative_to(root).as_posix() for one in root.rglob(f"*{SAFETENSORS}")]
            plain = _lacking(there, self.variant, wanted)
            if plain:
                root = hub.snapshot("backbone", self.path, self.revision, plain)
        pipeline = Pipeline.around(root, network_folders(), self.network)
        return Source(pipeline._replace(variant=self.variant), root)

    def _single(self, file: Path) -> "Source":
        """Returns a single file, and the pipeline that its other parts come from."""
        if file.suffix in PICKLES:
            raise UserError(
                f"{file}: a pickle, which may run code when it is read; `{CONVERT} {file} --to FOLDER` reads its "
                f"tensors alone; then set backbone.path=FOLDER/{file.stem}{SAFETENSORS}"
            )
        if file.suffix != SAFETENSORS:
            known = FOREIGN.get(
                file.suffix, "not a safetensors file, nor a folder that save_pretrained wrote"
            )
            raise UserError(f"{file}: {known}")
        if self.variant is not None:
            raise UserError("backbone.variant goes with folders; leave it out for a single file")
        header(file)
        usual = (
            apart("harness.models.backbones.single_file:about", str(file))
            if self.config is None
            else self.config
        )
        root = hub.local_folder("backbone", usual, HUB_ID, "config")
        if root is None:
            every = hub_patterns()
            plain = [one for one in every if not one.endswith(SAFETENSORS)]
            root = hub.snapshot("backbone", usual, None, plain, "config")
            held = [
                *network_folders(),
                *(one.name for one in root.iterdir() if one.is_dir() and _held(file, one)),
            ]
            rest = [one for one in every if one.endswith(SAFETENSORS) and one.partition("/")[0] not in held]
            root = hub.snapshot("backbone", usual, None, rest, "config")
        if Pipeline(root).network(network_folders()) == root:
            raise UserError(
                f"backbone.config {usual!r}: has no folder unet or transformer; give a whole pipeline"
            )
        return Source(Pipeline(root, checkpoint=str(file)), root)

    def _dtype(self, path: Path, files: Sequence[Path]) -> dict[str, str]:
        """Returns the entry of the network's configuration that says in which type it is opened."""
        wanted: str = self.torch_dtype
        if wanted == "auto":
            found = kinds(tensors(files))
            if found not in (["float32"], ["bfloat16"], ["float16"]):
                raise UserError(
                    f"{path.parent}: backbone.torch_dtype = auto, but the weights are stored in {' and '.join(found)}"
                    "; set it to float32, bfloat16 or float16"
                )
            wanted = found[0]
        return {} if wanted == "float32" else {DTYPE: wanted}


class Source(NamedTuple):
    """Where a model's files are: in a pipeline's folders, or in a single file."""

    pipeline: Pipeline
    folder: Path  # the one that was given

    def files(self, path: Path, network: bool) -> list[Path]:
        """Returns the files that hold `path`, which may be the name of weights.

        Raises `UserError` if some are missing.
        """
        if path.suffix != SAFETENSORS:
            if not path.is_file():
                raise UserError(
                    f"{path}: no such file; copy the whole folder, or save it with save_pretrained"
                )
            return [path]
        checkpoint, variant = self.pipeline.checkpoint, self.pipeline.variant
        if checkpoint is not None and (network or _held(Path(checkpoint), path.parent)):
            return [Path(checkpoint)]
        found = weight_files(path, variant, needed=network)
        check_shards(path, variant)
        return found

    def check(self, weights: Weights, files: Sequence[Path]) -> None:
        """Raises `UserError` unless files hold exactly a network's tensors."""
        names, network = [str(file) for file in files], (weights.network, weights.config)
        if [self.pipeline.checkpoint] == names:
            apart("harness.models.backbones.single_file:check", names[0], weights.path.parent.name, *network)
        else:
            apart("harness.models.backbones.checkpoint:check_tensors", names, *network)

    def parameters(self, own: Weights, files: Sequence[Path]) -> int:
        """Returns how many numbers the network has."""
        if self.pipeline.checkpoint is None:
            return parameters(tensors(files))
        return int(apart("harness.models.backbones.shapes:parameters", own.network, own.config))


def _held(file: Path, folder: Path) -> bool:
    """Returns whether the weights of a pipeline's part are in a single file."""
    return bool(apart("harness.models.backbones.single_file:holds", str(file), str(folder)))


def _lacking(there: Sequence[str], variant: str | None, wanted: Sequence[str]) -> list[str]:
    """Returns the patterns of weights that have no files of a variant among those downloaded."""
    from huggingface_hub.utils import filter_repo_objects

    if variant is None:
        return []
    plain = [one for one in hub_patterns() if one.endswith(SAFETENSORS)]
    folders = {one.rpartition("/")[0] for one in filter_repo_objects(there, allow_patterns=list(wanted))}
    return [one for one in plain if one.rpartition("/")[0] not in folders]


def _noise(pipeline: Pipeline, given: Schedule | None) -> tuple[NoiseProcess, list[str]]:
    """Returns the noise process given by hand, or else of the pipeline's scheduler, and what the plan says of it.

    Raises `UserError` where there is neither.
    """
    path = pipeline.scheduler
    if given is not None:
        process = process_of(given.scheduler(), "backbone.schedule")
        if path is None:
            return process, [f"noise: as backbone.schedule says, {given.name}"]
        return process, [f"noise: as backbone.schedule says, {given.name}; {path} is not read"]
    if path is None:
        raise UserError(
            f"{pipeline.root}: has no scheduler/scheduler_config.json, so its noise is not known; give the folder of "
            f"the whole pipeline, or backbone.schedule as it was trained: {', '.join(FIELDS)}"
        )
    return process_of(read_json(path), str(path)), []


def check_images(place: Path, parts: Parts, size: int, channels: int) -> None:
    """Raises `UserError` unless images have the size and channels that the backbone was trained on."""
    if parts.channels not in (1, 3):
        raise UserError(
            f"{place}: the network reads maps of {parts.channels} channels, hence latents, but there is no "
            "autoencoder beside it; give the folder of the whole pipeline"
        )
    if (parts.size, parts.channels) != (size, channels):
        raise UserError(
            f"{place} reads images of {parts.size} pixels and {parts.channels} channels, but the data has {size} "
            f"and {channels}; set data.size={parts.size} data.channels={parts.channels}"
        )
