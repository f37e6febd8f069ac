"""Single-file checkpoints: a whole model in its authors' layout, as diffusers' `from_single_file` reads it.

Configurations, tokenizers and whatever the file does not hold come from the folder of a pipeline of the same
architecture. The conversion is diffusers' own; what it yields is compared with the network, tensor by tensor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors.torch import load_file, save_file

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.registry import load_attribute
from harness.models.backbones.pipeline import CONFIG
from harness.models.backbones.shapes import mismatches, shapes_of
from harness.models.backbones.weight_files import header

TEXT_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")  # that diffusers converts
VAE = tuple(single_file_utils.LDM_VAE_KEYS)  # how the names of its tensors begin
LORA = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_te_", "lora_unet_")


def about(place: str) -> str:
    """Returns the Hub id of the pipeline that diffusers takes for the architecture of a file.

    Raises `UserError` for what is no checkpoint in an original layout. Plans run it in another process.
    """
    path = Path(place)
    tensors = _tensors(path)
    kind = single_file_utils.infer_diffusers_model_type(tensors)
    # diffusers takes everything that it does not know for Stable Diffusion 1
    if kind == "v1" and not any(name.startswith("model.diffusion_model.") for name in tensors):
        beside = path.parent / CONFIG
        if beside.is_file():
            raise UserError(
                f"{path}: one file of a folder in diffusers' format; set backbone.path={path.parent}"
            )
        raise UserError(
            f"{path}: not a checkpoint whose layout diffusers knows; give the folder of its pipeline, or set "
            "backbone.config to the folder or Hub id of one of the same architecture"
        )
    return str(single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"])


def holds(place: str, part: str) -> bool:
    """Returns whether the tensors of a pipeline's part, a folder other than the network's, are in a file."""
    folder, tensors = Path(part), _tensors(Path(place))
    if folder.name.startswith("text_encoder"):
        return _reader(folder, tensors) is not None
    return folder.name == "vae" and any(name.startswith(VAE) for name in tensors)


def check(place: str, part: str, network: str, config: Mapping[str, Any]) -> None:
    """Raises `UserError` unless diffusers' conversion of a file yields exactly the tensors of a network.

    Only the file's header is read. `part` is the folder of the network in a pipeline.
    """
    path = Path(place)
    wanted = shapes_of(network, config, f"backbone.config, {part}/{CONFIG}")
    with torch.device("meta"):
        converted = _converted(path, _tensors(path), network, config, wanted)
    problems = mismatches(
        {name: tuple(one.shape) for name, one in converted.items()}, wanted, f"{part}/{CONFIG} says"
    )
    if problems:
        raise UserError(
            f"{path}: converted by diffusers, its tensors are not those of backbone.config, {part}/{CONFIG}: "
            f"{problems}"
        )


def write(path: Path, network: str, config: Mapping[str, Any], target: Path) -> None:
    """Writes the weights of one network of a file, "module:class", by their names in diffusers."""
    converted = _converted(path, load_file(path), network, config)
    save_file({name: one.contiguous().clone() for name, one in converted.items()}, target, {"format": "pt"})


def text_encoder(path: Path, place: Path) -> Any:
    """Opens a text encoder whose configuration lies in the folder `place`, in float32.

    Raises `UserError` if some of its tensors are missing.
    """
    kind = _class_of(place)
    tensors = load_file(path)
    try:
        model = _reader(place, tensors)(
            kind,
            checkpoint=tensors,
            config=str(place.parent),
            subfolder=place.name,
            torch_dtype=torch.float32,
            local_files_only=True,
        )
    except ValueError as error:
        raise UserError(
            f"{path}: diffusers cannot read the {kind.__name__} of {place.name} from it: {error}"
        ) from None
    missing = [name for name, one in model.named_parameters() if one.is_meta]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{path}: of the {kind.__name__} of {place.name}, {missing[0]!r} is missing{more}")
    return model


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    """Returns the file's tensors on the meta device: names, shapes and types alone."""
    kinds = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "BOOL": torch.bool,
    }  # fmt: skip
    found = header(path)
    lora = next((name for name in found if any(word in name for word in LORA)), None)
    if lora is not None:
        raise UserError(
            f"{path}: holds a LoRA ({lora!r}), no network; load_lora_weights, fuse_lora and save_pretrained of the "
            "pipeline that it belongs to write a folder to give"
        )
    return {name: torch.empty(one.shape, dtype=kinds[one.kind], device="meta") for name, one in found.items()}


def _converted(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    network: str,
    config: Mapping[str, Any],
    wanted: Mapping[str, Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Returns a network's tensors by their names in diffusers; a file in diffusers' layout is not converted."""
    name = network.rpartition(":")[2]
    if name not in SINGLE_FILE_LOADABLE_CLASSES:
        raise UserError(
            f"{path}: diffusers reads no single-file checkpoints of a {name}; give the folder of its pipeline"
        )
    wanted = shapes_of(network, config, CONFIG) if wanted is None else wanted
    if set(wanted) <= set(tensors):
        return {one: tensors[one] for one in wanted}
    try:
        converted = SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"](
            config=dict(config), checkpoint=dict(tensors)
        )
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: diffusers cannot convert it to the {name} of backbone.config: {type(error).__name__} {error}"
        ) from None
    ignored = load_attribute(network)._keys_to_ignore_on_load_unexpected or []
    return {one: value for one, value in converted.items() if not any(word in one for word in ignored)}


def _class_of(place: Path) -> Any:
    """Returns the class of a text encoder; None if it is none of `TEXT_ENCODERS`."""
    kind = next(iter(read_json(place / CONFIG).get("architectures") or []), None)
    return getattr(transformers, kind) if kind in TEXT_ENCODERS else None


def _reader(place: Path, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Returns diffusers' function that reads a text encoder from a file; None if the file does not hold it."""
    model = _class_of(place)
    if model is None:
        return None
    if model.__name__.startswith("T5"):
        held = single_file_utils.is_t5_in_single_file(tensors)
        return single_file_utils.create_diffusers_t5_model_from_checkpoint if held else None
    held = single_file_utils.is_clip_model_in_single_file(model, tensors)
    return single_file_utils.create_diffusers_clip_model_from_ldm if held else None
