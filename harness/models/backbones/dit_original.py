"""The original checkpoints of DiT and SiT: one file, and a VAE. No torch."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.paths import existing_file
from harness.models import hub
from harness.models.autoencoders.autoencoder import latent_parts
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.condition import Condition
from harness.models.backbones.dit import OBJECTIVES, ORIGINAL, STEPS, Objective
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Latents
from harness.models.backbones.pretrained import HUB_ID, check_images
from harness.models.backbones.weight_files import checksums, patterns, weight_files
from harness.models.noise_processes.process import process_of

FILES: dict[str, Objective] = {  # names under which they were released
    "DiT-XL-2-256x256.pt": "ddpm",
    "DiT-XL-2-512x512.pt": "ddpm",
    "SiT-XL-2-256.pt": "sit",
    "SiT-XL-2-256x256.pt": "sit",
}
NOISE: dict[str, dict[str, Any]] = {
    "ddpm": {
        "num_train_timesteps": STEPS,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
    },
    **{
        name: {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": STEPS}
        for name in ("sit", "repa")
    },
}


class DiT(Backbone):
    """A `.pt` of the original DiT, SiT or REPA code, under the null label by default, with its VAE.

    Depth, width, patches, classes and a learnt variance are those of the tensors; the number of attention heads is
    that of the published models of the same width unless given. The `objective` is seen in no tensor: `ddpm` (DiT:
    the noise, linear betas, 1000 steps), `sit` (SiT: the velocity from noise to data on straight lines), or `repa`
    (REPA: on the same lines in the other direction). It is required unless the file has the name of a released
    model.
    """

    name: Literal["dit"] = "dit"
    path: str  # such as DiT-XL-2-256x256.pt
    vae: str  # of the latents, by folder or Hub id, such as stabilityai/sd-vae-ft-ema
    objective: Objective | None = None
    num_heads: int | None = Field(None, ge=1)
    weights: Literal["ema", "model"] | None = None  # of a training's checkpoint; None: ema
    label: int | Literal["null"] | None = None  # the class under which it runs; None: the null class

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Checks every tensor of the file against the network of its shapes; computes checksums."""
        path = existing_file(self.path)
        if path is None:
            raise UserError(
                f"backbone.path {self.path[:200]!r}: no such file; give a checkpoint of DiT or SiT, such as "
                "DiT-XL-2-256x256.pt"
            )
        objective = self._objective(path)
        found = apart(
            "harness.models.backbones.dit_weights:read", str(path), objective, self.num_heads, self.weights
        )
        config = ORIGINAL.read(found["config"], path)
        vae = self._vae()
        parts = latent_parts(
            vae, ORIGINAL.class_name, config["in_channels"], config["sample_size"], size, config["patch_size"]
        )
        check_images(path, parts, size, channels)
        (own,) = parts.weights
        files = weight_files(own.path)
        apart(
            "harness.models.backbones.checkpoint:check_tensors",
            [str(file) for file in files],
            own.network,
            own.config,
        )
        assert parts.latents is not None
        process = process_of(NOISE[objective])
        sums = checksums([path, *files])
        key = [config, process.config, parts.latents.config, self.weights, *sums]
        plan = BackbonePlan(
            config,
            process,
            str(path),
            fingerprint(key),
            parts.map_size,
            latents=Latents("vae", parts.latents.config),
            notes=(f"objective {objective}: predicts {OBJECTIVES[objective]}", *found["notes"]),
            parameters=apart("harness.models.backbones.shapes:parameters", ORIGINAL.network, config),
            reading={"vae": str(vae), "weights": self.weights},
        )
        return plan.under(Condition(label=self.label))

    def _objective(self, path: Path) -> Objective:
        """Returns what the network predicts; raises `UserError` if it is unknown or contradicts the file's name."""
        released = FILES.get(path.name)
        if self.objective is None and released is None:
            known = "; ".join(f"{name} ({what})" for name, what in OBJECTIVES.items())
            raise UserError(
                f"backbone.objective is missing: a checkpoint does not show what it predicts; set it as the model "
                f"was trained: {known}"
            )
        if None not in (self.objective, released) and self.objective != released:
            raise UserError(
                f"backbone.objective = {self.objective}, but {path.name} is a released model, trained for {released}"
                "; leave backbone.objective out, or rename the file if it is another model"
            )
        objective = self.objective or released
        assert objective is not None
        return objective

    def _vae(self) -> Path:
        """Returns the folder of the VAE, which may be part of a pipeline."""
        root = hub.local_folder("backbone", self.vae, HUB_ID, "vae")
        if root is None:
            wanted = [
                form
                for place in ("", "vae/")
                for form in (f"{place}{CONFIG}", *patterns(place + WEIGHTS, None))
            ]
            root = hub.snapshot("backbone", self.vae, None, wanted, "vae")
        folder = root / "vae" if (root / "vae" / CONFIG).is_file() else root
        if not (folder / CONFIG).is_file():
            raise UserError(
                f"backbone.vae {self.vae[:200]!r}: has no {CONFIG}; give the folder of an AutoencoderKL, or of a "
                "pipeline with a folder vae"
            )
        return folder
