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
from harness.models.backbones.condition import NAME, NETWORK, Condition, ConditionPlan
from harness.models.backbones.family import Family
from harness.models.backbones.pipeline import CONFIG, INDEX, Parts, Pipeline
from harness.models.backbones.weight_files import (
    SAFETENSORS,
    TEXT_WEIGHTS,
    check_shards,
    checksums,
    header,
    metadata,
    weight_files,
)

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
    # tensors of the condition that `further_tensors` computes, which a file of embeddings need not hold
    computed: ClassVar[Sequence[str]] = ("guidance",)
    pipelines: ClassVar[Sequence[str]] = ()  # classes of the pipelines that it reads; () for all

    @property
    def hub_files(self) -> Sequence[str]:  # type: ignore[override]
        """The text encoders and tokenizers."""
        files = ("*.json", TEXT_WEIGHTS, "merges.txt", "*.model", "*.jinja")
        parts = (*self.text_parts, *self.optional_text_parts)
        return [EMPTY_PROMPT, *(f"{part}/{file}" for part in parts for file in files)]

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any], size: int) -> Parts:
        """Returns the other parts of the pipeline; raises `UserError` for one that needs more than a prompt."""
        kind = pipeline.kind
        if self.pipelines and kind is not None and kind not in self.pipelines:
            raise UserError(
                f"{pipeline.root / INDEX}: a {kind} is not supported; a {self.class_name} is read from a pipeline "
                f"that makes images of a prompt alone: {', '.join(self.pipelines)}"
            )
        return super().parts(pipeline, config, size)

    def pipeline_of(self, source: Pipeline) -> str:
        """Returns "module:class" of the pipeline that embeds prompts; `pipeline` unless overridden."""
        return self.pipeline

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
        for name in ("prompt", "embeddings"):
            if given.unconditional and name in given.given:
                raise UserError(
                    f"backbone.unconditional and backbone.{name} are both given; give one of them"
                )
        own = {name: value for name, value in given.given.items() if name not in ("prompt", "embeddings")}
        settings: dict[str, Any] = {**self.further_settings(source, config), **own}
        if given.embeddings is not None:
            if given.prompt is not None:
                raise UserError("backbone.prompt and backbone.embeddings are both given; give one of them")
            path = existing_file(given.embeddings)
            if path is None:
                raise UserError(
                    f"backbone.embeddings {given.embeddings[:200]!r}: no such file; write it with: python -m harness "
                    "embed-prompt PIPELINE --to FILE"
                )
            return self._of_file(path, config, settings)
        if given.unconditional and self.zeros(source):
            settings |= {"zeros": True}
            key = fingerprint([self.class_name, settings, self.condition_shapes(config)])
            return ConditionPlan(_named("unconditional", settings), settings, key)
        prompt = given.prompt or ""
        stored = source.file(EMPTY_PROMPT)
        if stored is not None and not prompt and not given.unconditional:
            return self._of_file(stored, config, settings)
        files = self._text_files(source, config)
        settings |= {"prompt": prompt}
        sums = checksums(files)
        what = "unconditional" if given.unconditional else f'prompt "{prompt}"'
        return ConditionPlan(
            _named(what, settings), settings, fingerprint([self.class_name, settings, *sums])
        )

    def further_settings(self, source: Pipeline, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns settings for `further_tensors`: defaults, and facts of the pipeline; none unless overridden."""
        return {}

    def zeros(self, source: Pipeline) -> bool:
        """Returns whether zeros stand for the embeddings in the unconditional pass; not unless overridden."""
        return False

    def _of_file(self, path: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> ConditionPlan:
        """Returns the condition that `harness embed-prompt` wrote; raises `UserError` if for another network."""
        about = metadata(path)
        made_for = about.get(NETWORK, self.class_name)
        if made_for != self.class_name:
            raise UserError(
                f"{path}: holds a prompt's embedding for a {made_for}, but this is a {self.class_name}"
            )
        self._check_embeddings(path, config)
        what = about.get(NAME, 'prompt ""' if path.name == EMPTY_PROMPT else f"embeddings {path.name}")
        key = fingerprint([self.class_name, dict(settings), checksum(path)])
        return ConditionPlan(_named(what, settings), {**settings, "embeddings": str(path)}, key)

    def _check_embeddings(self, path: Path, config: Mapping[str, Any]) -> None:
        """Raises `UserError` unless a file holds the tensors that the network takes.

        The first of several dimensions, the number of tokens, may be any.
        """
        found, wanted = header(path), self.condition_shapes(config)
        for name, shape in wanted.items():
            if name in self.computed:
                continue
            if name not in found:
                raise UserError(
                    f"{path}: has no tensor {name!r}; a {self.class_name} takes {', '.join(wanted)}; write it with: "
                    "python -m harness embed-prompt PIPELINE --to FILE"
                )
            fixed = list(shape[1:] if len(shape) > 1 else shape)
            got = list(found[name].shape)
            if len(got) != len(shape) or got[len(got) - len(fixed) :] != fixed:
                raise UserError(f"{path}: {name!r} has shape {got}, but this network takes {list(shape)}")

    def _text_files(self, source: Pipeline, config: Mapping[str, Any]) -> list[Path]:
        """Returns the files that embed a prompt; raises `UserError` for folders that are missing."""
        for name in self.text_parts:
            if source.part(name) is None:
                raise UserError(
                    f"{source.root}: has no folder {name}, which embeds the prompt, and no {EMPTY_PROMPT}; give the "
                    "folder of the whole pipeline, or backbone.embeddings"
                )
        self.check_text(source, config)
        files = [file for name in self._present(source) for file in part_files(source, name)]
        for file in files:
            if file.suffix == SAFETENSORS:
                header(file)
        apart(
            "harness.models.backbones.text_encoders:check",
            self.pipeline_of(source),
            str(source.root),
            self._present(source),
            source.reading,
        )
        return files

    def _present(self, source: Pipeline) -> list[str]:
        """Returns the folders that embed a prompt, of those that exist."""
        further = [name for name in self.optional_text_parts if source.part(name) is not None]
        return [*self.text_parts, *further]

    def check_text(self, source: Pipeline, config: Mapping[str, Any]) -> None:
        """Raises `UserError`, beginning with a path, for a text encoder whose width does not match the network."""
        for name, width in self.text_widths(config).items():
            path = source.root / name / CONFIG
            found = read_json(path)
            found = {**found.get("text_config", {}), **found}  # of models that read images, too
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
        from safetensors.torch import load_file

        from harness.models.backbones.condition_tensors import dtype, like

        further = self.further_tensors(config, settings)
        shapes = {name: shape for name, shape in self.condition_shapes(config).items() if name not in further}
        if "embeddings" in settings:
            stored = load_file(settings["embeddings"])
            found = {name: stored[name] for name in shapes}
        elif settings.get("zeros"):
            found = like(shapes)
        else:
            assert source is not None
            found = self._embedded(source, settings)
        found |= further
        return {name: value.to(dtype(name)).contiguous() for name, value in found.items()}

    def further_tensors(
        self, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns tensors of the condition that do not depend on the prompt; none unless overridden."""
        return {}

    def _embedded(self, source: Pipeline, settings: Mapping[str, Any]) -> "dict[str, torch.Tensor]":
        import torch

        from harness.models.backbones.text_encoders import open_pipeline

        pipeline = open_pipeline(self.pipeline_of(source), source, self._present(source))
        with torch.no_grad():
            return self.embed(pipeline, settings["prompt"], settings.get("unconditional", False))


def part_files(source: Pipeline, name: str) -> list[Path]:
    """Returns the files of a text encoder or tokenizer that are read. Raises `UserError` if some are missing."""
    folder = source.root / name
    kept = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix in (".json", ".txt", ".model", ".jinja")
    ]
    if not name.startswith("text_encoder"):
        return kept
    if source.checkpoint is not None and apart(
        "harness.models.backbones.single_file:holds", source.checkpoint, str(folder)
    ):
        return [*kept, Path(source.checkpoint)]
    check_shards(folder / TEXT_WEIGHTS, source.variant)
    return [*kept, *weight_files(folder / TEXT_WEIGHTS, source.variant)]


def _named(what: str, settings: Mapping[str, Any]) -> str:
    guidance = settings.get("guidance")
    return what if guidance is None else f"{what}, guidance {guidance:g}"
