"""The U-Net of Kandinsky 2.2's decoder, told the embedding of an image (Razzhigaev et al. 2023)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.apart import apart
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.prompted import EMPTY_PROMPT
from harness.models.backbones.prompted_unet import PromptedUNet, Use
from harness.models.backbones.weight_files import checksums

if TYPE_CHECKING:
    import torch

# Folders of a `KandinskyV22CombinedPipeline`: a zero image is embedded by the first, a prompt by all of them.
PRIOR = tuple(
    f"prior_{name}"
    for name in ("image_encoder", "prior", "text_encoder", "tokenizer", "scheduler", "image_processor")
)


class Kandinsky(PromptedUNet):
    """`UNet2DConditionModel` on the latents of a MoVQ; its condition is the embedding of an image, "image" [D].

    By default of an image of zeros, as in the unconditional pass; under a prompt, the one that the prior makes of it,
    with the prior's default steps and guidance and noise of seed 0.
    """

    use = Use("image_proj", "image")
    needed = (*PromptedUNet.needed, "encoder_hid_dim")
    autoencoders = ("movq",)
    conditions = (*PromptedUNet.conditions, "unconditional")
    pipeline = "diffusers:KandinskyV22PriorPipeline"
    text_parts = PRIOR

    def embedded(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shape of the image's embedding."""
        return {"image": [config["encoder_hid_dim"]]}

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the image of zeros or the prompt; raises `UserError` if the prior's folders are missing."""
        assert source is not None
        prompt = given.prompt
        stored = source.file(EMPTY_PROMPT) is not None and not given.unconditional and prompt is None
        both = given.unconditional and prompt is not None
        if given.embeddings is not None or stored or both:
            return super().condition(source, config, given)
        self.refuse_conditions(given)
        names = PRIOR[:1] if prompt is None else PRIOR
        missing = next((name for name in names if source.part(name) is None), None)
        if missing is not None:
            what = "an image of zeros, the default condition," if prompt is None else "a prompt"
            raise UserError(
                f"{source.root}: has no folder {missing}, which embeds {what} for Kandinsky 2.2; save the decoder "
                "with its prior as a KandinskyV22CombinedPipeline and give that folder, or give backbone.embeddings"
            )
        apart(
            "harness.models.backbones.kandinsky_prior:check",
            str(source.root),
            names,
            config["encoder_hid_dim"],
        )
        settings = {"unconditional": True} if prompt is None else {"prompt": prompt}
        files = sorted(file for name in names for file in (source.root / name).rglob("*") if file.is_file())
        key = fingerprint([self.class_name, settings, *checksums(files)])
        return ConditionPlan("zero image" if prompt is None else f'prompt "{prompt}"', settings, key)

    def _embedded(self, source: Pipeline, settings: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
        from harness.models.backbones.kandinsky_prior import open_prior

        prompt = settings.get("prompt")
        prior = open_prior(source.root, PRIOR[:1] if prompt is None else PRIOR)
        return self.embed(prior, prompt or "", prompt is None)

    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the embedding of an image of zeros, or of the one that the prior imagines for a prompt."""
        import torch

        with torch.no_grad():
            if unconditional:
                return {"image": pipeline.get_zero_embed()[0]}
            made = pipeline(prompt, generator=torch.Generator().manual_seed(0))
            return {"image": made.image_embeds[0]}

    def added(self, condition: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """Returns the image's embedding."""
        return {"image_embeds": condition["image"]}
