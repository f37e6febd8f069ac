"""The text encoders and tokenizers of a diffusers pipeline, opened without its denoising network and autoencoder."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import transformers

from harness.core.errors import UserError
from harness.core.registry import load_attribute
from harness.models.backbones import single_file
from harness.models.backbones.pipeline import INDEX, Pipeline
from harness.models.backbones.weight_files import TEXT_WEIGHTS, index, single
from harness.models.finite import refuse_infinite_weights


def open_pipeline(kind: str, source: Pipeline, names: Sequence[str]) -> Any:
    """Returns the pipeline "module:class" with the parts `names` of `source`, and None for all others.

    Raises `UserError` for a text encoder whose weights are incomplete, and `FloatingPointError` for weights that are
    not finite.
    """
    pipeline = load_attribute(kind)
    parameters = inspect.signature(pipeline.__init__).parameters
    unused = {"requires_safety_checker": False} if "requires_safety_checker" in parameters else {}
    absent = {name: None for name, one in parameters.items() if one.default is one.empty and name != "self"}
    parts = {name: _open(pipeline, source, name) for name in names}
    return pipeline(**{**absent, **unused, **parts})


def check(kind: str, root: str, names: Sequence[str], reading: Mapping[str, str]) -> None:
    """Raises `UserError` unless the weights of all text encoders are complete; reads shapes, not weights.

    Those of a single file are only looked at when they are opened. Plans run this in another process, so arguments
    are JSON; `reading` is that of a `Pipeline`.
    """
    pipeline = load_attribute(kind)
    for name in names:
        folder = Path(root) / name
        if name.startswith("text_encoder"):
            if "checkpoint" in reading and single_file.holds(reading["checkpoint"], str(folder)):
                continue
            variant = _variant(folder, reading.get("variant"))
            open_encoder(_class_of(pipeline, Path(root), name), folder, device_map="meta", variant=variant)


def _variant(folder: Path, variant: str | None) -> str | None:
    """Returns the variant of a text encoder's weights; None if it has no such files."""
    names = (single(TEXT_WEIGHTS, variant), index(TEXT_WEIGHTS, variant))
    return variant if any((folder / name).is_file() for name in names) else None


def _open(pipeline: type, source: Pipeline, name: str) -> Any:
    root = source.root
    kind = _class_of(pipeline, root, name)
    if not name.startswith("text_encoder"):
        if kind.__name__.endswith("Processor"):  # for images as well, which takes torchvision
            kind = transformers.AutoTokenizer
        return kind.from_pretrained(root / name, local_files_only=True)
    if source.checkpoint is not None and single_file.holds(source.checkpoint, str(root / name)):
        encoder = single_file.text_encoder(Path(source.checkpoint), root / name).eval()
    else:
        variant = _variant(root / name, source.variant)
        encoder = open_encoder(kind, root / name, dtype=torch.float32, variant=variant).eval()
    refuse_infinite_weights(encoder.state_dict(), str(root / name))
    return encoder


def open_encoder(kind: Any, folder: Path, **loading: Any) -> Any:
    """Opens an encoder of transformers; raises `UserError` for one that cannot be read or is incomplete."""
    try:
        with _quiet():
            encoder, found = kind.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, local_files_only=True, **loading
            )
    except Exception as error:  # transformers raises many types for files that it cannot read
        raise UserError(f"{folder}: cannot be opened as a text encoder: {_line(error)}") from None
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{folder}: the weights are incomplete: {missing[0]!r} is missing{more}; download the text encoder again"
        )
    return encoder


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _class_of(pipeline: type, root: Path, name: str) -> Any:
    """Returns the class of a part: that of the pipeline's index, or of the pipeline's signature."""
    listed = root / INDEX
    entries = json.loads(listed.read_text()) if listed.is_file() else {}
    library, called = entries.get(name) or ("", "")
    if library == "transformers" and hasattr(transformers, called):
        return getattr(transformers, called)
    hint: Any = get_type_hints(pipeline.__init__).get(name)  # type: ignore[misc]
    kinds = [one for one in (get_args(hint) or (hint,)) if isinstance(one, type) and one is not type(None)]
    if kinds and not kinds[0].__name__.endswith("PreTrainedModel"):
        return kinds[0]
    return transformers.AutoModel if name.startswith("text_encoder") else transformers.AutoTokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' reports and progress bars off the terminal; what they report is raised instead."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
