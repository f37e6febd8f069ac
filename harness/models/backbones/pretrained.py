"""Backbones in diffusers' format, by folder or Hub id, checked completely at planning. No torch."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.core.apart import apart
from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.models import hub
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.condition import Condition
from harness.models.backbones.family import family_of, hub_patterns, network_folders, read_network
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Parts, Pipeline, Weights
from harness.models.noise_processes.process import NoiseProcess, process_of
from harness.models.noise_processes.schedule import FIELDS, Schedule

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # diffusers models have an owner


class PretrainedBackbone(Backbone, Condition):
    """A diffusers model trained elsewhere, by folder or Hub id, under a condition if it takes one.

    The families are those of `harness.models.backbones.family.FAMILIES`; other packages may add further ones.
    """

    name: Literal["pretrained"] = "pretrained"
    path: str  # a folder that save_pretrained wrote (of a pipeline or its U-Net), or a Hub id
    revision: str | None = None  # of a Hub id: a commit, tag or branch
    network: str | None = Field(None, pattern=r"^[\w.-]+$")  # its folder in the pipeline, such as unet_ema
    schedule: Schedule | None = None  # the noise that it was trained with; None: as its scheduler says

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configurations, checks every tensor's shape and computes checksums of the weights."""
        patterns = [] if self.network is None else [f"{self.network}/{file}" for file in (CONFIG, WEIGHTS)]
        folder = hub.local_folder("backbone", self.path, HUB_ID) or hub.snapshot(
            "backbone", self.path, self.revision, [*hub_patterns(), *patterns]
        )
        pipeline = Pipeline.around(folder, network_folders(), self.network)
        place = pipeline.network(network_folders())
        config = read_network(place)
        family = family_of(config)
        parts = family.parts(pipeline, config, size)
        noise, said = _noise(pipeline, self.schedule)
        process = family.process(noise, config, place / CONFIG, parts.map_size)
        _check_images(place, parts, size, channels)
        own = Weights(place / WEIGHTS, family.network, config)
        files = [own.path, *parts.files]
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"{file}: no such file; save the model with save_pretrained(safe_serialization=True)"
                )
        for weights in (own, *parts.weights):
            apart(
                "harness.models.backbones.checkpoint:check_tensors",
                str(weights.path),
                weights.network,
                weights.config,
            )
        latents = parts.latents
        values = [config, process.config, latents and latents.config, *(checksum(file) for file in files)]
        plan = BackbonePlan(
            config,
            process,
            str(pipeline.place or pipeline.root),
            fingerprint(values),
            parts.map_size,
            latents=latents,
            root=str(pipeline.root),
            notes=(*pipeline.notes(folder, network_folders()), *said),
        )
        return plan.under(self)


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


def _check_images(place: Path, parts: Parts, size: int, channels: int) -> None:
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
