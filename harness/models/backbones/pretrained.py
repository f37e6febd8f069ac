"""Backbones in diffusers' format, by folder or by Hub id: what they are, checked before anything runs. No torch."""

import re
from pathlib import Path
from typing import Literal

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.models import hub
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.family import family_of, hub_patterns, network_folders, read_network
from harness.models.backbones.pipeline import WEIGHTS, Parts, Pipeline, Weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # models of diffusers have an owner


class PretrainedBackbone(Backbone):
    """A diffusers model as trained elsewhere, by folder or Hub id.

    A `UNet2DModel`; a `UNet2DConditionModel` (Stable Diffusion), used with the empty prompt, or a
    `DiTTransformer2DModel`, used with the null label, on the latents of their VAE. Other packages may add families
    (`harness.models.backbones.family`).
    """

    name: Literal["pretrained"] = "pretrained"
    path: str  # a folder that save_pretrained wrote (a pipeline's, or that of its U-Net), or a model id of the Hub
    revision: str | None = None  # of a Hub id: a commit, tag or branch

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configurations, checks every tensor's shape and takes the checksum of the weights."""
        pipeline = Pipeline(
            hub.local_folder("backbone", self.path, HUB_ID)
            or hub.snapshot("backbone", self.path, self.revision, hub_patterns())
        )
        place = pipeline.network(network_folders())
        config = read_network(place)
        family = family_of(config)
        parts = family.parts(pipeline, config)
        process = family.process(pipeline)
        _check_images(place, parts, size, channels)
        own = Weights(place / WEIGHTS, family.network, config)
        files = [own.path, *parts.files]
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"{file}: not there; save the model with save_pretrained(safe_serialization=True)"
                )
        for weights in (own, *parts.weights):
            apart(
                "harness.models.backbones.checkpoint:check_tensors",
                str(weights.path),
                weights.network,
                weights.config,
            )
        values = [config, process.config, *parts.configs, *(checksum(file) for file in files)]
        return BackbonePlan(config, process, str(pipeline.root), fingerprint(values))


def _check_images(place: Path, parts: Parts, size: int, channels: int) -> None:
    """Raises `UserError` for images of another size or channel count than the backbone was trained on."""
    if (parts.size, parts.channels) != (size, channels):
        raise UserError(
            f"{place} reads images of {parts.size} pixels and {parts.channels} channels, the data has {size} and "
            f"{channels}; set data.size={parts.size} data.channels={parts.channels}"
        )
