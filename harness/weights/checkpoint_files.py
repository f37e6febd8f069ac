"""Reads users' own checkpoints: tensors by the network's names, from files as training scripts write them.

Pickles are read as plain tensors only: none of their code runs. `harness.weights.user_checkpoints` lists the files.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from safetensors.torch import load_file, save_file

from harness.core.errors import UserError
from harness.core.fingerprint import checksum
from harness.core.stages import Context, Stage
from harness.models.classifiers.build import WEIGHTS, build, tensors
from harness.models.classifiers.networks import Outline, canonical_names
from harness.weights.layout import Layout
from harness.weights.vectors import flatten

DEEPEST = 8  # nested wrappers: a pickle may contain itself
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which scripts keep a state dict
PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
COUNTER = "num_batches_tracked"  # of a batch norm: changes nothing

# Other names in use for tensors, and what `canonical_names` calls them: ViTs of earlier releases of transformers, and
# the ResNets for CIFAR that most repositories copy.
ELSEWHERE: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"^vit\.encoder\.layer\.(\d+)\.": r"vit.layers.\1.",
    r"\.attention\.attention\.(query|key|value)\.": lambda match: f".attention.{match[1][0]}_proj.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
    r"^(vit\.layers\.\d+)\.intermediate\.dense\.": r"\1.mlp.fc1.",
    r"^(vit\.layers\.\d+)\.output\.dense\.": r"\1.mlp.fc2.",
    r"^(layer\d+\.\d+)\.shortcut\.([01])\.": r"\1.downsample.\2.",
    r"^linear\.": "fc.",
}

State = dict[str, torch.Tensor]


def check(files: Sequence[str], base: str, shapes: Sequence[Any], names: Mapping[str, Any]) -> None:
    """Raises `UserError` for the first file that does not fit; holds two checkpoints in memory at a time.

    `base` is the last of `files` unless the user named one. `shapes` and `names` are the network's outline and the
    layout of its varied parameters as JSON-like values: a plan calls this in another process.
    """
    outline, layout, base_file = Outline.from_json(shapes), Layout.from_json(names), Path(base)
    base_state = read(base_file, outline)
    _check_base(base_state, base_file, outline, layout, base not in files)
    for file in map(Path, files):
        state = read(file, outline) if file != base_file else base_state
        _check(state, file, outline, layout, base_state)


def make_network(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the base network: all parameters and buffers."""
    network = build(stage.config["network"])
    path = _unchanged(stage.options["path"], stage.config["checksum"])
    state = {**network.state_dict(), **read(path, tensors(network))}
    save_file({name: value.contiguous() for name, value in state.items()}, folder / WEIGHTS)


def make_trajectory(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the varied parameters of each checkpoint, and its step."""
    outline = tensors(build(stage.needs["network"].config["network"]))
    layout = Layout.from_json(stage.config["layout"])
    paths = zip(stage.options["paths"], stage.config["checksums"], strict=True)
    vectors_NP = torch.stack([flatten(read(_unchanged(*path), outline), layout) for path in paths])
    steps_N = torch.tensor(stage.config["steps"], dtype=torch.int64)
    save_file({"vectors": vectors_NP, "steps": steps_N}, folder / "vectors.safetensors")
    layout.save(folder / "layout.json")


def read(file: Path, outline: Outline) -> State:
    """Returns the tensors of a checkpoint by the network's names, float32.

    Looks through wrappers and prefixes, and knows the names of torchvision and timm. Raises `UserError` for anything
    but plain tensors, and for tensors that the network does not have, has in another shape, or that are not finite.
    """
    shapes = {**outline.parameters, **outline.buffers}
    state = _translated(_plain(_load(file), file), shapes)
    missing = [name for name in outline.parameters if name not in state]
    for name, value in state.items():
        if name not in shapes:
            lacks = f", but lacks {missing[0]!r}" if missing else ""
            raise UserError(
                f"{file}: has a tensor {name!r} that the network does not have{lacks}; give checkpoints of it, "
                f"with names such as {_examples(shapes)}"
            )
        if tuple(value.shape) != shapes[name]:
            raise UserError(
                f"{file}: {name!r} is of shape {list(value.shape)}, in weights.network it is {list(shapes[name])}; "
                "give checkpoints of that network, or the network of the checkpoints"
            )
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            kind = (
                "no data" if value.is_meta else value.dtype if value.layout == torch.strided else value.layout
            )
            raise UserError(
                f"{file}: {name!r} holds {kind}, not plain floating-point numbers; save it dense and unquantised"
            )
        state[name] = value.float()
        if not state[name].isfinite().all():
            raise UserError(
                f"{file}: {name!r} has numbers that are not finite; leave this checkpoint out of the folder"
            )
    return state


def _unchanged(path: str, expected: str) -> Path:
    if not Path(path).is_file() or checksum(Path(path)) != expected:
        raise UserError(f"{path}: has changed since the sweep was planned; start it again")
    return Path(path)


def _check_base(state: State, file: Path, outline: Outline, layout: Layout, named: bool) -> None:
    """Raises `UserError` if a base network is incomplete."""
    missing = [name for name in (*outline.parameters, *outline.buffers) if name not in state]
    if not missing:
        return
    if not named and set(state) <= set(layout.names):
        raise UserError(
            f"{file}: holds only the varied parameters; give weights.checkpoints.base, a file with all parameters"
        )
    raise UserError(
        f"{file}: lacks {missing[0]!r} (missing tensors: {len(missing)}); the base network must be complete"
        + ("" if named else ": give it as weights.checkpoints.base")
    )


def _check(state: State, file: Path, outline: Outline, layout: Layout, base: State) -> None:
    """Raises `UserError` if a checkpoint lacks tensors, or differs from the base network in fixed ones."""
    whole = any(name in outline.parameters and name not in layout.names for name in state)
    needed = dict.fromkeys([*layout.names, *(outline.parameters if whole else ())])
    missing = [name for name in needed if name not in state]
    if missing:
        raise UserError(
            f"{file}: lacks {missing[0]!r} (missing tensors: {len(missing)}); a checkpoint holds the varied "
            "parameters, or all of them"
        )
    for name in outline.parameters:
        if name in state and name not in layout.names and not torch.equal(state[name], base[name]):
            raise UserError(
                f"{file}: {name!r} differs from the base network's, but is not among weights.parameters; add it "
                "there (`parameters: [all]` takes everything), or use checkpoints trained with the rest frozen"
            )


def _load(file: Path) -> Any:
    """Returns what a file holds; runs no code of a pickle."""
    try:
        with catch_warnings():
            simplefilter("ignore")  # of pickles that torch did not write
            if file.suffix.lower() == ".safetensors":
                return load_file(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UserError:
    if type(error).__name__ == "UnpicklingError":
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        return UserError(
            f"{file}: is a pickle of more than plain tensors{f' ({found[1]})' if found else ''}, which could run "
            "code and is never opened; save model.state_dict(), best as safetensors"
        )
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{file}: cannot be read: {line}; save it again, or leave it out")


def _plain(found: Any, file: Path) -> State:
    """Returns the state dict within what a file holds, without wrappers, prefixes and counters."""
    for _ in range(DEEPEST):
        inner = next(
            (key for key in WRAPPERS if isinstance(found, dict) and isinstance(found.get(key), dict)), None
        )
        found = found if inner is None else found[inner]
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file}: holds no named tensors; save model.state_dict()")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            wrong = f"of type {type(value).__name__}, not a tensor" if isinstance(name, str) else "not a name"
            raise UserError(f"{file}: {name!r} is {wrong}; save model.state_dict() alone")
    state = {name: value for name, value in found.items() if not name.endswith(COUNTER)}
    while prefix := next((one for one in PREFIXES if state and _all_begin(state, one)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    return all(name.startswith(prefix) for name in names)


def _translated(state: State, names: Iterable[str]) -> State:
    """Returns the tensors by the network's names, where they have those of torchvision, timm or transformers."""
    ours = {theirs: name for name, theirs in canonical_names(names).items()}
    translated: State = {}
    for name, value in state.items():
        for pattern, now in ELSEWHERE.items() if name not in ours.values() else ():
            name = re.sub(pattern, now, name)
        parts = {name: value}
        if ".attn.qkv." in name and len(value) % 3 == 0:
            thirds = value.chunk(3)
            parts = {name.replace(".qkv.", f".{one}."): part for one, part in zip("qkv", thirds, strict=True)}
        translated |= {ours.get(part, part): tensor for part, tensor in parts.items()}
    return translated


def _examples(names: Iterable[str]) -> str:
    first, theirs = next(iter(canonical_names(names).items()))
    return repr(first) if first == theirs else f"{first!r} or {theirs!r}"
