"""Converts guided-diffusion checkpoints to diffusers' networks: every tensor is used, none is made up."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.core.errors import UserError
from harness.models.backbones.adm import ADM, EDITIONS, NEW_ORDER
from harness.models.backbones.family import family_of
from harness.models.backbones.shapes import mismatches

# Tensor names of residual and attention blocks, guided-diffusion's to diffusers'.
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
DOWNSAMPLER, UPSAMPLER = {"op": "conv"}, {"conv": "conv"}  # convolutions, without residual blocks
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


class _Place(NamedTuple):
    """A module of diffusers' network (`here`) and its counterpart in guided-diffusion's (`there`)."""

    here: str
    there: str
    tensors: Mapping[str, str] = RESIDUAL


def check(place: str, unet: Mapping[str, Any]) -> None:
    """Raises `UserError`, naming the first tensors, unless a `.pt` holds exactly the network of `unet`."""
    _renamed(Path(place), _read(Path(place), "meta"), unet)


def convert(
    path: Path,
    unet: Mapping[str, Any],
    folder: Path,
    reading: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> None:
    """Writes the checkpoint at `path` as diffusers' network below `folder`. Raises `UserError`."""
    tensors = _renamed(path, _read(path, "cpu"), unet)
    family = family_of(unet)
    network = family.build(unet)
    network.load_state_dict({name: one.float() for name, one in tensors.items()}, strict=True)
    network.save_pretrained(folder / family.folder, safe_serialization=True)


def _read(path: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # other files fail in many ways
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a checkpoint that contains only tensors: {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise UserError(
            f"{path}: not a dictionary of tensors; give the weights, such as 256x256_diffusion_uncond.pt"
        )
    return found


def _renamed(
    path: Path, found: Mapping[str, torch.Tensor], unet: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Returns the tensors by their names in diffusers; raises `UserError` for extra, missing or misshapen ones."""
    _check_kind(path, found, unet)
    origins, shapes = _original(unet)
    own = {name: tuple(one.shape) for name, one in found.items()}
    problems = mismatches(own, shapes, "these settings require")
    if problems:
        fits = [name for name in EDITIONS if own == _original(ADM(path="", edition=name).unet())[1]]
        advice = f"; these are the tensors of edition {' or '.join(fits)}" if fits else ""
        raise UserError(f"{path}: not the ADM of these settings: {problems}{advice}")
    return {name: _part(name, found[there], unet) for name, there in origins.items()}


def _check_kind(path: Path, found: Mapping[str, torch.Tensor], unet: Mapping[str, Any]) -> None:
    """Raises `UserError` for classifiers, upsamplers, and models with classes where there are none or the reverse."""
    first = found.get("input_blocks.0.0.weight")
    if first is not None and not any(name.startswith("output_blocks.") for name in found):
        raise UserError(
            f"{path}: a classifier, without output blocks; give a diffusion model, such as 64x64_diffusion.pt"
        )
    if first is not None and first.ndim == 4 and first.shape[1] == 2 * unet["in_channels"]:
        raise UserError(
            f"{path}: reads {first.shape[1]} channels, as upsamplers do, which need a small image beside the noised "
            "one; give a diffusion model of images alone, such as 64x64_diffusion.pt"
        )
    classes, embedding = unet.get("num_class_embeds"), found.get("label_emb.weight")
    if embedding is not None and classes is None:
        raise UserError(
            f"{path}: a class-conditional model ('label_emb.weight'), but these settings have class_cond false; set "
            f"backbone.class_cond: true and backbone.label: 0 to {len(embedding) - 1}, or a class-conditional edition"
        )
    if embedding is None and classes is not None and "time_embed.0.weight" in found:
        raise UserError(
            f"{path}: an unconditional model (without 'label_emb.weight'), but these settings have class_cond true; "
            "set backbone.class_cond: false, or an unconditional edition"
        )
    if embedding is not None and len(embedding) != classes:
        raise UserError(
            f"{path}: has {len(embedding)} classes, but these settings have num_classes {classes}; "
            f"set backbone.num_classes: {len(embedding)}"
        )


def _original(unet: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Returns guided-diffusion's names by diffusers' ones, and the shapes of its tensors by name."""
    with torch.device("meta"):
        wanted = {name: tuple(one.shape) for name, one in family_of(unet).build(unet).state_dict().items()}
    table = places(unet)
    origins = {name: _origin(name, table) for name in wanted}
    return origins, {there: _shape_there(name, there, wanted[name]) for name, there in origins.items()}


def _origin(name: str, table: list[_Place]) -> str:
    """Returns guided-diffusion's name of diffusers' tensor `name`."""
    module, _, kind = name.rpartition(".")
    for there, here in ENDS.items():
        if module == here:
            return f"{there}.{kind}"
    place = next(place for place in table if module.startswith(f"{place.here}."))
    part = module.removeprefix(f"{place.here}.")
    if re.fullmatch(r"to_[qkv]", part):
        return f"{place.there}.qkv.{kind}"
    parts = {here: there for there, here in place.tensors.items()}
    return f"{place.there}.{parts[part]}.{kind}"


def places(unet: Mapping[str, Any]) -> list[_Place]:
    """Returns diffusers' residual and attention blocks, and samplers, with their counterparts in guided-diffusion."""
    layers, levels, found = unet["layers_per_block"], len(unet["block_out_channels"]), []
    residual = unet["downsample_type"] == "resnet"
    number = 1
    for level, kind in enumerate(unet["down_block_types"]):
        for layer in range(layers):
            found.append(_Place(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0"))
            if kind.startswith("Attn"):
                found.append(
                    _Place(f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1", ATTENTION)
                )
            number += 1
        if level < levels - 1:
            kept = RESIDUAL if residual else DOWNSAMPLER
            found.append(_Place(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{number}.0", kept))
            number += 1
    found += [
        _Place("mid_block.resnets.0", "middle_block.0"),
        _Place("mid_block.attentions.0", "middle_block.1", ATTENTION),
        _Place("mid_block.resnets.1", "middle_block.2"),
    ]
    for level, kind in enumerate(unet["up_block_types"]):
        attends = kind.startswith("Attn")
        for layer in range(layers + 1):
            block = f"output_blocks.{level * (layers + 1) + layer}"
            found.append(_Place(f"up_blocks.{level}.resnets.{layer}", f"{block}.0"))
            if attends:
                found.append(_Place(f"up_blocks.{level}.attentions.{layer}", f"{block}.1", ATTENTION))
        if level < levels - 1:
            kept = RESIDUAL if residual else UPSAMPLER
            found.append(_Place(f"up_blocks.{level}.upsamplers.0", f"{block}.{1 + attends}", kept))
    return found


def _shape_there(name: str, there: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a tensor's shape in guided-diffusion, where attention projections are 1x1 convolutions."""
    if re.search(r"\.qkv\.", there):
        return (3 * shape[0], *shape[1:], *([1] if len(shape) == 2 else []))
    return (*shape, 1) if there.endswith(".proj_out.weight") else shape


def _part(name: str, tensor: torch.Tensor, unet: Mapping[str, Any]) -> torch.Tensor:
    """Returns the tensor in diffusers' layout.

    Queries, keys and values are stored as (heads, 3, head, C), or in the new order as (3, heads, head, C).
    """
    which = re.search(r"\.to_([qkv])\.", name)
    if which is None:
        return tensor.squeeze(-1) if ".to_out.0.weight" in name else tensor
    flat, part = tensor.squeeze(-1) if tensor.ndim == 3 else tensor, "qkv".index(which[1])
    if unet.get(NEW_ORDER):
        return flat.chunk(3)[part]
    heads = unet.get("num_attention_heads") or len(flat) // 3 // unet["attention_head_dim"]
    return flat.unflatten(0, (heads, 3, -1))[:, part].flatten(0, 1)
