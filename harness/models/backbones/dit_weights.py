"""Converts checkpoints of the original DiT, SiT and REPA: every tensor is used or named, none is made up."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from harness.core.errors import UserError
from harness.models.backbones.checkpoint import copy_autoencoder, write_random
from harness.models.backbones.dit import ORIGINAL
from harness.models.backbones.family import family_of
from harness.models.backbones.pickles import opened
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.shapes import mismatches, shapes_of
from harness.models.backbones.weight_files import SAFETENSORS

# Modules of diffusers' network and their counterparts in the original's; of a block, below its own names.
BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_q": "attn.qkv",
    "attn1.to_k": "attn.qkv",
    "attn1.to_v": "attn.qkv",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
ENDS = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
EMBEDDING = {  # which every block of diffusers' network has a copy of
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
POSITIONS, PROJECTORS, DECODER = "pos_embed", "projectors.", "decoder_blocks."
WEIGHTS = ("ema", "model")  # dictionaries of tensors in a checkpoint of the training script
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published S, B, L and XL, by width
TOLERANCE = 1e-4  # of position embeddings, which may be stored in float16


class _Found(NamedTuple):
    """The tensors of a checkpoint by the original's names, and what was left out."""

    tensors: Mapping[str, torch.Tensor]
    notes: list[str]


def read(place: str, objective: str, heads: int | None, weights: str | None) -> dict[str, Any]:
    """Returns the configuration of a checkpoint's network, and notes: {"config": ..., "notes": [...]}.

    Raises `UserError` unless it holds exactly such a network. Plans run this in another process, so arguments and
    result are JSON.
    """
    path = Path(place)
    tensors, notes = _read(path, objective, weights)
    config = _config(path, tensors, objective, heads)
    _check(path, tensors, config)
    return {"config": config, "notes": notes}


def convert(
    path: Path, config: Mapping[str, Any], folder: Path, reading: Mapping[str, Any], seed: int | None
) -> None:
    """Writes the checkpoint at `path` as a network, and its autoencoder, below `folder`.

    `reading` has the folder of the autoencoder, "vae", and of a training's checkpoint which "weights" to take; `seed`
    asks for random weights instead.
    """
    if seed is None:
        tensors = _read(path, config["objective"], reading.get("weights")).tensors
        network = family_of(config).build(config)
        names = {name: _origin(name) for name in network.state_dict()}
        renamed = {name: _part(name, tensors[there]).float() for name, there in names.items()}
        network.load_state_dict(renamed, strict=True)
        network.save_pretrained(folder / ORIGINAL.folder, safe_serialization=True)
    else:
        write_random(config, folder / ORIGINAL.folder, seed)
    vae = Path(reading["vae"])
    copy_autoencoder(Pipeline(vae), vae, folder / "vae")


def _read(path: Path, objective: str, weights: str | None) -> _Found:
    """Returns the tensors of a checkpoint, without those that only trained it."""
    notes: list[str] = []
    found = load_file(path) if path.suffix == SAFETENSORS else opened(path)
    there = [name for name in WEIGHTS if isinstance(found, dict) and isinstance(found.get(name), dict)]
    if there:
        chosen = weights or there[0]
        if chosen not in there:
            raise UserError(f"{path}: backbone.weights = {chosen!r}: has only {', '.join(there)}")
        found = found[chosen]
        others = [name for name in there if name != chosen]
        if others:
            notes.append(
                f"{path.name}: '{chosen}' is read, not '{others[0]}'; backbone.weights={others[0]} reads that"
            )
    elif weights is not None:
        raise UserError(
            f"{path}: backbone.weights = {weights!r} is for checkpoints of a training, with "
            f"{' and '.join(WEIGHTS)}; this one has one set of weights, so leave it out"
        )
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise UserError(f"{path}: not a dictionary of tensors; give the weights, such as DiT-XL-2-256x256.pt")
    return _without_projectors(path, found, objective, notes)


def _without_projectors(
    path: Path, found: Mapping[str, torch.Tensor], objective: str, notes: list[str]
) -> _Found:
    """Returns REPA's checkpoints under the names of SiT's, without the projectors that only aligned its features."""
    projectors = [name for name in found if name.startswith(PROJECTORS)]
    if projectors and objective != "repa":
        raise UserError(
            f"{path}: has {projectors[0]!r}, as REPA's code writes, whose time runs from data to noise; set "
            "backbone.objective: repa"
        )
    if projectors:
        notes.append(f"{path.name}: {len(projectors)} tensors of REPA's projectors are not read")
    earlier = len({name.split(".")[1] for name in found if name.startswith("blocks.")})
    tensors = {}
    for name, one in found.items():
        if name.startswith(DECODER):  # of REPA's first release, after the blocks that it aligned
            _, number, rest = name.split(".", 2)
            name = f"blocks.{int(number) + earlier}.{rest}"
        if not name.startswith(PROJECTORS):
            tensors[name] = one
    return _Found(tensors, notes)


def _config(
    path: Path, tensors: Mapping[str, torch.Tensor], objective: str, heads: int | None
) -> dict[str, Any]:
    """Returns the configuration that the tensors' shapes, the objective and the number of heads give."""
    shapes = {name: tuple(one.shape) for name, one in tensors.items()}
    names = (
        "x_embedder.proj.weight",
        POSITIONS,
        "final_layer.linear.weight",
        "y_embedder.embedding_table.weight",
    )
    dimensions = dict(zip(names, (4, 3, 2, 2), strict=True))
    for name, dimension in dimensions.items():
        if len(shapes.get(name, ())) != dimension:
            raise UserError(
                f"{path}: not a checkpoint of DiT or SiT: {name!r} is missing or has another form; give one such as "
                "DiT-XL-2-256x256.pt, or the folder of a diffusers model with backbone.name: pretrained"
            )
    width, channels, patch, _ = shapes[names[0]]
    side = math.isqrt(shapes[POSITIONS][1])
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    found = heads or HEADS.get(width)
    if found is None:
        raise UserError(
            f"{path}: its width {width} is none of the published models' ({', '.join(map(str, HEADS))}), and its "
            "tensors do not show the number of attention heads; set backbone.num_heads"
        )
    if width % found:
        raise UserError(f"backbone.num_heads = {found} does not divide the network's width {width}")
    return {
        "_class_name": ORIGINAL.class_name,
        "objective": objective,
        "num_attention_heads": found,
        "attention_head_dim": width // found,
        "in_channels": channels,
        "out_channels": shapes[names[2]][0] // patch**2,
        "num_layers": depth,
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": shapes[names[3]][0] - 1,
    }


def _check(path: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Raises `UserError` for tensors that are not the network's, or positions other than its sinusoids."""
    wanted: dict[str, tuple[int, ...]] = {POSITIONS: tuple(tensors[POSITIONS].shape)}
    for name, shape in shapes_of(ORIGINAL.network, config, str(path)).items():
        there = _origin(name)
        wanted[there] = (
            (3 * shape[0], *shape[1:]) if there.startswith("blocks.") and ".qkv." in there else shape
        )
    problems = mismatches(
        {name: tuple(one.shape) for name, one in tensors.items()}, wanted, "a DiT of its width and depth has"
    )
    if problems:
        raise UserError(f"{path}: not a DiT or SiT: {problems}")
    if config["out_channels"] not in (config["in_channels"], 2 * config["in_channels"]):
        raise UserError(
            f"{path}: reads {config['in_channels']} channels and puts out {config['out_channels']}; expected as "
            "many, or twice as many with a learnt variance"
        )
    own = _positions(config)
    if own.shape != tensors[POSITIONS].shape or (own - tensors[POSITIONS].float()).abs().max() > TOLERANCE:
        raise UserError(
            f"{path}: {POSITIONS!r} is not the fixed sine-cosine embedding of a square map, as DiT and SiT have it; "
            "models with learnt positions are not supported"
        )


def _positions(config: Mapping[str, Any]) -> torch.Tensor:
    """Returns the position embedding that diffusers computes."""
    from diffusers.models.embeddings import PatchEmbed

    size, patch = config["sample_size"], config["patch_size"]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    positions: torch.Tensor = PatchEmbed(size, size, patch, 1, width).pos_embed
    return positions


def _origin(name: str) -> str:
    """Returns the original's name of diffusers' tensor `name`."""
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if block is None:
        return f"{ENDS[module]}.{kind}"
    if block[2] in EMBEDDING:
        return f"{EMBEDDING[block[2]]}.{kind}"
    return f"blocks.{block[1]}.{BLOCK[block[2]]}.{kind}"


def _part(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Returns the tensor in diffusers' layout: queries, keys and values are one below the other."""
    which = re.search(r"\.to_([qkv])\.", name)
    return tensor if which is None else tensor.chunk(3)["qkv".index(which[1])].clone()
