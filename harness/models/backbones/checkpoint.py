"""Checkpoints in diffusers' format: whether their tensors are the network's, and their copy that workers read."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from harness.core.errors import UserError
from harness.models.backbones.blocks import PROMPTED, UNET
from harness.models.backbones.denoiser import FOLDERS, build_network, save_frame, save_scheduler
from harness.models.backbones.pretrained import PROMPT, WEIGHTS, Folder, find_parts

RENAMED = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
NULL_LABEL = "class_embedder.embedding_table.weight"  # its last row is the null label


def check_tensors(path: Path, config: Mapping[str, Any]) -> None:
    """Raises `UserError`, naming the first tensors, unless a file holds just those of the network of `config`."""
    kind = config.get("_class_name", UNET)
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not the weights of a {kind}: {error}") from None
    with torch.device("meta"):
        try:
            wanted = {name: tuple(one.shape) for name, one in build_network(config).state_dict().items()}
        except Exception as error:  # of diffusers, for a configuration that contradicts itself
            raise UserError(f"{path.parent / 'config.json'}: no {kind} can be built of it: {error}") from None
    problems = mismatches(
        {_today(name, wanted): shape for name, shape in found.items()}, wanted, "config.json says"
    )
    if problems:
        raise UserError(f"{path}: the tensors are not those of config.json: {problems}")


def mismatches(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], says: str) -> str:
    """Returns in words how shapes by name differ from those wanted, the first of each kind; "" if they don't."""
    texts = []
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    other = [name for name in wanted if name in found and found[name] != wanted[name]]
    if missing:
        texts.append(f"{missing[0]!r} is missing{_more(missing)}")
    if unexpected:
        texts.append(f"{unexpected[0]!r} is not expected{_more(unexpected)}")
    if other:
        name = other[0]
        texts.append(f"{name!r} has shape {[*found[name]]}, {says} {[*wanted[name]]}{_more(other)}")
        if name.endswith(NULL_LABEL) and found[name][0] + 1 == wanted[name][0]:
            texts.append("its last row would be the null label, which this checkpoint was trained without")
    return "; ".join(texts)


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _today(name: str, wanted: Mapping[str, Any]) -> str:
    """Returns the name that diffusers gives a tensor of attention today, as it does when it reads old files."""
    for now, before in RENAMED.items():
        if name not in wanted and before in name and name.replace(before, now) in wanted:
            return name.replace(before, now)
    return name


def copy_pipeline(
    source: Path, network: Mapping[str, Any], scheduler: Mapping[str, Any], folder: Path, seed: int | None
) -> None:
    """Copies a pretrained backbone into `folder` for `load_denoiser`; with a seed, its network has random weights."""
    parts = find_parts(source)
    kind = network.get("_class_name", UNET)
    place = folder / FOLDERS[kind]
    if seed is None:
        place.mkdir()
        shutil.copyfile(parts.network / WEIGHTS, place / WEIGHTS)
        (place / "config.json").write_text(json.dumps(dict(network)))
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            build_network(network).save_pretrained(place, safe_serialization=True)
    if parts.vae is not None and kind != UNET:
        (folder / "vae").mkdir()
        for name in (WEIGHTS, "config.json"):
            shutil.copyfile(parts.vae / name, folder / "vae" / name)
    if kind == PROMPTED:
        _write_prompt(parts, folder)
    (save_frame if kind == UNET else save_scheduler)(scheduler, folder)


def _write_prompt(parts: Folder, folder: Path) -> None:
    """Writes the embedding of the empty prompt: as it is kept, or as the pipeline's text encoder makes it."""
    if parts.prompt is not None:
        shutil.copyfile(parts.prompt, folder / PROMPT)
    elif parts.text is not None:
        save_file({"embedding": empty_prompt(*parts.text)}, folder / PROMPT)


@torch.no_grad()
def empty_prompt(encoder: Path, tokenizer: Path) -> torch.Tensor:
    """Returns the embedding of "" [77, D], padded as Stable Diffusion's pipeline pads it."""
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would write over the sweep's display
    words = CLIPTokenizer.from_pretrained(tokenizer)
    tokens = words("", padding="max_length", max_length=words.model_max_length, truncation=True)
    model = CLIPTextModel.from_pretrained(encoder, use_safetensors=True, dtype=torch.float32).eval()
    return model(torch.tensor([tokens["input_ids"]])).last_hidden_state[0].contiguous()
