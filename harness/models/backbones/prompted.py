"""Base of the families whose condition is a prompt, embedded by their pipeline's encoders. No torch at import."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.apart import apart
from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.family import Family
from harness.models.backbones.pipeline import CONFIG, Pipeline

if TYPE_CHECKING:
    import torch

EMPTY_PROMPT = (
    "empty_prompt.safetensors"  # in a pipeline without text encoders: the condition of the empty prompt
)


class PromptedFamily(Family):
    """A family that reads a prompt, one for all images: "" unless the experiment gives another."""

    conditions: ClassVar[Sequence[str]] = ("prompt", "embeddings")
    pipeline: ClassVar[str]  # "module:class" of the diffusers pipeline whose `encode_prompt` embeds prompts
    text_parts: ClassVar[Sequence[str]]  # folders of the pipeline that `encode_prompt` needs
    optional_text_parts: ClassVar[Sequence[str]] = ()  # further ones, which it can do without

    @property
    def hub_files(self) -> Sequence[str]:  # type: ignore[override]
        """The text encoders and tokenizers."""
        files = ("*.json", "*.safetensors", "merges.txt", "*.model", "*.jinja")
        parts = (*self.text_parts, *self.optional_text_parts)
        return [EMPTY_PROMPT, *(f"{part}/{file}" for part in parts for file in files)]

    @abstractmethod
    def embed(self, pipeline: Any, prompt: str, unconditional: bool) -> "dict[str, torch.Tensor]":
        """Returns the condition's tensors, without a batch dimension, as the opened pipeline's `encode_prompt` does.

        `unconditional` asks for those of the unconditional pass in classifier-free guidance.
        """

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the prompt, with the fingerprint of what embeds it. Raises `UserError` if nothing can."""
        self.refuse_conditions(given)
        assert source is not None
        settings: dict[str, Any] = {
            name: value for name, value in given.given.items() if name not in ("prompt", "embeddings")
        }
        if given.embeddings is not None:
            if given.prompt is not None:
                raise UserError("backbone.prompt and backbone.embeddings are both given; give one of them")
            path = existing_file(given.embeddings)
            if path is None:
                raise UserError(
                    f"backbone.embeddings {given.embeddings[:200]!r}: no such file; write it with: python -m harness "
                    "embed-prompt PIPELINE --to FILE"
                )
            return self._of_file(path, f"embeddings {path.name}", settings)
        prompt = given.prompt or ""
        stored = source.file(EMPTY_PROMPT)
        if stored is not None and not prompt and not given.unconditional:
            return self._of_file(stored, 'prompt ""', settings)
        files = self._text_files(source, config)
        settings |= {"prompt": prompt}
        sums = [checksum(file) for file in files]
        what = "unconditional" if given.unconditional else f'prompt "{prompt}"'
        return ConditionPlan(
            _named(what, settings), settings, fingerprint([self.class_name, settings, *sums])
        )

    def _of_file(self, path: Path, what: str, settings: Mapping[str, Any]) -> ConditionPlan:
        key = fingerprint([self.class_name, dict(settings), checksum(path)])
        return ConditionPlan(_named(what, settings), {**settings, "embeddings": str(path)}, key)

    def _text_files(self, source: Pipeline, config: Mapping[str, Any]) -> list[Path]:
        """Returns the files that embed a prompt; raises `UserError` for folders that are missing."""
        for name in self.text_parts:
            if source.part(name) is None:
                raise UserError(
                    f"{source.root}: has no folder {name}, which embeds the prompt, and no {EMPTY_PROMPT}; give the "
                    "folder of the whole pipeline, or backbone.embeddings"
                )
        self.check_text(source, config)
        apart(
            "harness.models.backbones.text_encoders:check",
            self.pipeline,
            str(source.root),
            self._present(source),
        )
        return sorted(
            file
            for name in self._present(source)
            for file in (source.root / name).rglob("*")
            if file.is_file()
        )

    def _present(self, source: Pipeline) -> list[str]:
        """Returns the folders that embed a prompt, of those that exist."""
        further = [name for name in self.optional_text_parts if source.part(name) is not None]
        return [*self.text_parts, *further]

    def check_text(self, source: Pipeline, config: Mapping[str, Any]) -> None:
        """Raises `UserError`, beginning with a path, for a text encoder whose width does not match the network."""
        for name, width in self.text_widths(config).items():
            path = source.root / name / CONFIG
            found = read_json(path)
            got = next((found[field] for field in ("hidden_size", "d_model") if field in found), None)
            if got != width:
                raise UserError(f"{path}: the text encoder has width {got}, but the network expects {width}")

    def text_widths(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Returns the widths that the network expects of text encoders, by folder; those without are not checked."""
        return {}

    def make_condition(
        self, source: Pipeline | None, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the prompt's embeddings, from a file or by the pipeline's own text encoders."""
        from harness.models.backbones.condition_tensors import dtype, read_embeddings

        shapes = self.condition_shapes(config)
        if "embeddings" in settings:
            found = read_embeddings(Path(settings["embeddings"]), shapes)
        else:
            assert source is not None
            found = self._embedded(source, settings)
        found |= self.further_tensors(config, settings)
        return {name: value.to(dtype(name)).contiguous() for name, value in found.items()}

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns tensors of the condition that do not depend on the prompt; none unless overridden."""
        return {}

    def _embedded(self, source: Pipeline, settings: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
        import torch

        from harness.models.backbones.text_encoders import open_pipeline

        pipeline = open_pipeline(self.pipeline, source.root, self._present(source))
        with torch.no_grad():
            return self.embed(pipeline, settings["prompt"], settings.get("unconditional", False))


def _named(what: str, settings: Mapping[str, Any]) -> str:
    guidance = settings.get("guidance")
    return what if guidance is None else f"{what}, guidance {guidance:g}"
