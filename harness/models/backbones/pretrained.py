"""Backbones in diffusers' format, by folder or Hub id, checked completely at planning. No torch."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file
from harness.models import hub
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.family import family_of, hub_patterns, network_folders, read_network
from harness.models.backbones.foreign import refuse_foreign
from harness.models.backbones.pipeline import DTYPE, WEIGHTS, Parts, Pipeline, Weights
from harness.models.backbones.weight_files import (
    CONVERT,
    FOREIGN,
    PICKLES,
    SAFETENSORS,
    check_shards,
    content,
    header,
    kinds,
    parameters,
    refuse_not_finite,
    tensors,
    weight_files,
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # diffusers models have an owner


class PretrainedBackbone(Backbone):
    """A diffusers model trained elsewhere, by folder, single file or Hub id.

    A `UNet2DModel`; a `UNet2DConditionModel` (Stable Diffusion), used with the empty prompt, or a
    `DiTTransformer2DModel`, used with the null label, on the latents of their VAE. Other packages may add families
    (`harness.models.backbones.family`).
    """

    name: Literal["pretrained"] = "pretrained"
    path: str  # a folder that save_pretrained wrote (of a pipeline or its U-Net), a safetensors file, or a Hub id
    revision: str | None = None  # of a Hub id: a commit, tag or branch
    variant: str | None = Field(None, pattern=r"^[A-Za-z]\w*$")  # of the files, such as fp16
    torch_dtype: Literal["float32", "bfloat16", "float16", "auto"] = (
        "float32"  # in which the network is held in memory; auto: as stored
    )
    config: str | None = None  # of a single file: a pipeline of the same architecture, by folder or Hub id

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configurations, checks every tensor's name and shape and takes checksums of the weights.

        Of weights only headers are read, unless their checksum is not known yet.
        """
        source = self._source()
        pipeline = source.pipeline
        place = pipeline.network(network_folders())
        refuse_foreign(pipeline, place)
        config = read_network(place)
        family = family_of(config)
        parts = family.parts(pipeline, config)
        process = family.process(pipeline)
        _check_images(place, parts, size, channels)
        own = Weights(place / WEIGHTS, family.network, config)
        files = {path: source.files(path, path == own.path) for path in (own.path, *parts.files)}
        for weights in (own, *parts.weights):
            source.check(weights, files[weights.path])
        config = {**config, **self._dtype(own.path, files[own.path])}
        every = [file for found in files.values() for file in found]
        contents = {file: content(file) for file in every if file.suffix == SAFETENSORS}
        refuse_not_finite(contents)
        sums = [contents[file].sha256 if file in contents else checksum(file) for file in every]
        return BackbonePlan(
            config,
            process,
            str(source.file or pipeline.root),
            fingerprint([config, process.config, *parts.configs, *sums]),
            parameters=source.parameters(own, files[own.path]),
            options=source.options,
        )

    def _source(self) -> "Source":
        file = existing_file(self.path)
        if file is not None:
            return self._single(file)
        if self.config is not None:
            raise UserError(
                "backbone.config goes with backbone.path = a single safetensors file; leave it out for folders"
            )
        root = hub.local_folder("backbone", self.path, HUB_ID)
        if root is None:
            root = hub.snapshot("backbone", self.path, self.revision, hub_patterns(self.variant))
            there = [one.relative_to(root).as_posix() for one in root.rglob(f"*{SAFETENSORS}")]
            plain = _lacking(there, self.variant)
            if plain:
                root = hub.snapshot("backbone", self.path, self.revision, plain)
        return Source(Pipeline(root), self.variant)

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
        found = (
            []
            if root is None
            else apart("harness.models.backbones.single_file:parts_in", str(file), str(root))
        )
        if root is None:
            every = hub_patterns()
            plain = [one for one in every if not one.endswith(SAFETENSORS)]
            root = hub.snapshot("backbone", usual, None, plain, "config")
            found = apart("harness.models.backbones.single_file:parts_in", str(file), str(root))
            held = (*found, *network_folders())
            rest = [one for one in every if one.endswith(SAFETENSORS) and one.partition("/")[0] not in held]
            root = hub.snapshot("backbone", usual, None, rest, "config")
        if Pipeline(root).network(network_folders()) == root:
            raise UserError(
                f"backbone.config {usual!r}: has no folder unet or transformer; give a whole pipeline"
            )
        return Source(Pipeline(root), None, file, frozenset(found))

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
    """Where a model's files are: a pipeline's folder, or a single file with the pipeline of its architecture."""

    pipeline: Pipeline
    variant: str | None
    file: Path | None = None
    held: frozenset[str] = (
        frozenset()
    )  # folders of the pipeline whose weights are in `file`, besides the network's

    @property
    def options(self) -> dict[str, str]:
        """What `harness.models.backbones.checkpoint.copy_pipeline` needs to know besides `BackbonePlan.source`."""
        if self.file is not None:
            return {"config": str(self.pipeline.root)}
        return {} if self.variant is None else {"variant": self.variant}

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
        if self._inside(path, network):
            return [self.file]  # type: ignore[list-item]
        found = weight_files(path, self.variant, needed=network)
        check_shards(path, self.variant)
        return found

    def check(self, weights: Weights, files: Sequence[Path]) -> None:
        """Raises `UserError` unless files hold exactly a network's tensors."""
        network = (weights.network, weights.config)
        if [self.file] == [*files]:
            apart(
                "harness.models.backbones.single_file:check",
                str(self.file),
                weights.path.parent.name,
                *network,
            )
        else:
            apart(
                "harness.models.backbones.checkpoint:check_tensors", [str(file) for file in files], *network
            )

    def parameters(self, own: Weights, files: Sequence[Path]) -> int:
        """Returns how many numbers the network has."""
        if self.file is None:
            return parameters(tensors(files))
        return int(apart("harness.models.backbones.shapes:parameters", own.network, own.config))

    def _inside(self, path: Path, network: bool) -> bool:
        return self.file is not None and (network or path.parent.name in self.held)


def _lacking(there: Sequence[str], variant: str | None) -> list[str]:
    """Returns the patterns of weights that have no files of a variant among those downloaded."""
    from huggingface_hub.utils import filter_repo_objects

    if variant is None:
        return []
    plain = [one for one in hub_patterns() if one.endswith(SAFETENSORS)]
    folders = {
        one.rpartition("/")[0] for one in filter_repo_objects(there, allow_patterns=hub_patterns(variant))
    }
    return [one for one in plain if one.rpartition("/")[0] not in folders]


def _check_images(place: Path, parts: Parts, size: int, channels: int) -> None:
    """Raises `UserError` unless images have the size and channels that the backbone was trained on."""
    if (parts.size, parts.channels) != (size, channels):
        raise UserError(
            f"{place} reads images of {parts.size} pixels and {parts.channels} channels, but the data has {size} "
            f"and {channels}; set data.size={parts.size} data.channels={parts.channels}"
        )
