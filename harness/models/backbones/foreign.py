"""What people give that is no backbone: adapters, other parts of a pipeline, other software's models. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.models import hub
from harness.models.backbones.family import refuse_unread
from harness.models.backbones.pipeline import CONFIG, Pipeline
from harness.models.backbones.weight_files import CONVERT, FOREIGN, PICKLES, SAFETENSORS

LORA = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")
ADAPTERS = ("ControlNet", "T2IAdapter", "MultiAdapter", "MotionAdapter", "IPAdapter")
MERGE = "load_lora_weights, fuse_lora and save_pretrained of the pipeline that it belongs to write a folder to give"


def refuse_foreign(pipeline: Pipeline, place: Path) -> None:
    """Raises `UserError`, saying what it is and what to give instead, if `place` holds no diffusion network."""
    root = pipeline.root
    if (root / "snapshots").is_dir() and root.name.startswith("models--"):
        raise UserError(f"{root}: is the Hub's cache of a model; set backbone.path={_id(root)}")
    if not (place / CONFIG).is_file():
        raise UserError(_without_config(pipeline, place))
    config = read_json(place / CONFIG)
    problem = _quantised(config) or _other_part(config, place)
    if problem:
        raise UserError(f"{place}: {problem}")


def _id(root: Path) -> str:
    return root.name.removeprefix("models--").replace("--", "/")


def _quantised(config: Mapping[str, Any]) -> str | None:
    """Returns by what a network is quantised, from its configuration."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    return (
        f"its config.json says that the network is quantised ({method or 'quantization_config'}); give one in "
        "float32, bfloat16 or float16"
    )


def _other_part(config: Mapping[str, Any], place: Path) -> str | None:
    """Returns what a network is that denoises no images."""
    name = str(config.get("_class_name", ""))
    if not name and (config.get("architectures") or config.get("model_type")):
        called = str([*(config.get("architectures") or []), config.get("model_type")][0])
        return f"holds a {called} of transformers, no diffusion network; {_whole(place)}"
    if name.startswith(("Autoencoder", "AsymmetricAutoencoder", "VQModel", "ConsistencyDecoder")):
        return f"holds the autoencoder of a pipeline ({name}), not its network; {_whole(place)}"
    if any(word in name for word in ADAPTERS):
        return f"holds a {name}, which steers another network and is none itself; give the pipeline that it steers"
    if name.startswith("Flax"):
        return f"holds a {name}: {FOREIGN['.msgpack']}"
    return None


def _whole(place: Path) -> str:
    """Returns which folder to give instead of that of a part."""
    beside = Pipeline(place.parent)
    if beside.file("model_index.json"):
        return f"set backbone.path={beside.root}"
    return "give the folder of the whole pipeline, or of its network"


def _without_config(pipeline: Pipeline, place: Path) -> str:
    """Returns what a folder without the configuration of a network is."""
    root = pipeline.root
    names = sorted(one.name for one in place.iterdir())
    lora = [name for name in names if name in LORA]
    if lora:
        return f"{place}: holds a LoRA ({lora[0]}), no network; {MERGE}"
    if place == root:
        files = [one for one in sorted([*root.glob("*"), *root.glob("*/*")]) if one.is_file()]
    else:
        files = [one for one in sorted(place.iterdir()) if one.is_file()]
    for kind, words in FOREIGN.items():
        found = [one for one in files if one.suffix == kind]
        if found:
            return f"{found[0]}: {words}"
    alone = [one for one in files if one.parent == place and one.suffix == SAFETENSORS]
    pickles = [one for one in files if one.parent == place and one.suffix in PICKLES]
    if place != root:
        return (
            f"{place / CONFIG}: cannot be read: there is no such file; copy it from where the model was published, "
            "or save the network with save_pretrained"
        )
    if not names:
        return f"{root}: is empty; give a folder that save_pretrained wrote"
    if pipeline.file("model_index.json"):
        called = read_json(root / "model_index.json").get("_class_name")
        if hub.repository(root / CONFIG) is None:
            return f"{root}: holds a {called}, but neither a folder unet nor transformer; copy the whole pipeline"
        return f"{root}: holds a {called}, whose network is in neither unet nor transformer; it is not read"
    refuse_unread(root)
    if names == ["scheduler_config.json"]:
        return f"{root}: holds a scheduler, no network; {_whole(root)}"
    if alone:
        return (
            f"{root}: has no {CONFIG}; to read {alone[0].name} as a single-file checkpoint, set "
            f"backbone.path={alone[0]}"
        )
    if pickles:
        return (
            f"{pickles[0]}: a pickle, which may run code when it is read; `{CONVERT} {pickles[0]} --to NEW` reads "
            f"its tensors alone; then set backbone.path=NEW/{pickles[0].stem}{SAFETENSORS}"
        )
    return (
        f"{root / CONFIG}: cannot be read: there is no such file, nor a folder unet or transformer; give a folder "
        "that save_pretrained wrote"
    )
