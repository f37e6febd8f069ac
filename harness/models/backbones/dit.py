"""The families of DiT (Peebles and Xie 2022) and SiT (Ma et al. 2024), read with the null label."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core.errors import UserError
from harness.models.backbones.family import check_numbers, check_patches, positive
from harness.models.backbones.labelled import LabelledFamily
from harness.models.noise_processes.flow_matching import FlowMatching
from harness.models.noise_processes.process import NoiseProcess
from harness.models.noise_processes.variance_preserving import VariancePreserving

if TYPE_CHECKING:
    import torch

Objective = Literal["ddpm", "sit", "repa"]
# What a network of the original code was trained for; its tensors do not show it.
OBJECTIVES: Mapping[Objective, str] = {
    "ddpm": "the noise, at integer steps (DiT)",
    "sit": "the velocity x_0 - ε, at times from 0 (noise) to 1 (data) (SiT)",
    "repa": "the velocity ε - x_0, at times from 0 (data) to 1 (noise) (REPA)",
}
STEPS = 1000  # T


class DiTFamily(LabelledFamily):
    """`DiTTransformer2DModel`: a transformer over patches of latents; the null label is the last of the table."""

    network = "diffusers:DiTTransformer2DModel"
    folder = "transformer"
    needed = ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim")
    defaults = {"patch_size": 2, "num_embeds_ada_norm": 1000}
    autoencoders = ("vae",)
    latent = True
    frequencies = "diffusers"  # whose timestep embedding it has

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses patch sizes that do not divide the map, and networks without labels."""
        check_numbers({name: config[name] for name in (*self.needed, "patch_size")}, path)
        check_patches(config, path)
        labels = config.get("num_embeds_ada_norm")
        if not positive(labels):
            raise UserError(
                f"{path}: num_embeds_ada_norm = {labels!r}: expected a positive integer for the null label"
            )

    def trained_by(self, config: Mapping[str, Any], code: str) -> dict[str, Any]:
        """Returns the configuration of the network that the original code, or diffusers, has trained."""
        family = ORIGINAL if code == "original" else FAMILY
        return {**config, "_class_name": family.class_name}

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Says whose timestep embedding the network has."""
        mine, other = self.frequencies, "original" if self.frequencies == "diffusers" else "diffusers"
        return [
            f"timestep embedding: with the frequencies of {CODES[mine]}; if the weights were trained with those of "
            f"{CODES[other]}, set backbone.trained_by={other}"
        ]

    def classes(self, config: Mapping[str, Any]) -> int:
        """Returns the number of classes; the null class follows them."""
        return config["num_embeds_ada_norm"]

    def null(self, config: Mapping[str, Any]) -> int:
        """Returns the last row of the table of labels."""
        return config["num_embeds_ada_norm"]

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the label."""
        return network(z_BCHW, time_B, condition["label"]).sample


CODES = {"original": "the original code", "diffusers": "diffusers' DiTTransformer2DModel"}


class OriginalDiTFamily(DiTFamily):
    """`OriginalDiTTransformer2DModel`, the network of the original code's weights: DiT, SiT and REPA."""

    network = "harness.models.backbones.dit_network:OriginalDiTTransformer2DModel"
    defaults = {**DiTFamily.defaults, "objective": "ddpm"}
    frequencies = "original"
    original = "harness.models.backbones.dit_weights:convert"

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses what `DiTFamily` does, and unknown objectives."""
        super().check(config, path)
        if config["objective"] not in OBJECTIVES:
            raise UserError(
                f"{path}: objective = {config['objective']!r}: expected one of {', '.join(OBJECTIVES)}"
            )

    def trained_by(self, config: Mapping[str, Any], code: str) -> dict[str, Any]:
        """Returns the configuration without an objective if diffusers has trained it."""
        found = super().trained_by(config, code)
        if code == "diffusers":
            found.pop("objective", None)
        return found

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Refuses noise with which the objective is not trained."""
        objective = config["objective"]
        wanted = VariancePreserving if objective == "ddpm" else FlowMatching
        if not isinstance(found, wanted) or (objective != "ddpm" and found.timesteps != STEPS):
            need = "betas (schedule linear)" if objective == "ddpm" else f"a flow of {STEPS} steps"
            raise UserError(
                f"{path}: objective = {objective!r} predicts {OBJECTIVES[objective]}, for which the noise must be "
                f"{need}, not that of a {found.config.get('_class_name', 'DDPMScheduler')} of {found.timesteps} steps"
            )
        return found

    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Runs the network with the label; a flow's time becomes the objective's, which lies between 0 and 1.

        A learnt variance follows the prediction; SiT has the channels for it too, but does not train them.
        """
        objective = network.config.objective
        if objective == "ddpm":
            return super().run(network, z_BCHW, time_B, condition)
        sigma_B = time_B / STEPS
        if objective == "repa":
            return super().run(network, z_BCHW, sigma_B, condition)
        return -super().run(network, z_BCHW, 1 - sigma_B, condition)


FAMILY = DiTFamily()
ORIGINAL = OriginalDiTFamily()
