"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685) by `peft`: where they go, and their merging."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from harness.features.finetune.config import Lora
from harness.models.backbones.counting import on_meta

LAYERS = (nn.Linear, nn.Conv2d)  # that get adapters


def matching(network: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """Returns the linear and convolutional layers, by path, whose path is or ends in one of `targets`."""
    ends = tuple(f".{target}" for target in targets)
    return {
        path: layer
        for path, layer in network.named_modules()
        if isinstance(layer, LAYERS) and f".{path}".endswith(ends)
    }


def attach(network: nn.Module, lora: Lora) -> None:
    """Adds adapters to the layers of `lora.targets` that learn at present; afterwards nothing but adapters learns.

    An adapter adds (alpha / rank) B A x to the layer's output. B starts at zero, so that the network is unchanged.
    """
    found = matching(network, lora.targets)
    paths = [path for path, layer in found.items() if next(layer.parameters()).requires_grad]
    network.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(map(re.escape, paths)),  # a pattern of whole paths
    )
    inject_adapter_in_model(config, network)


def merge(network: nn.Module) -> None:
    """Adds every adapter to its layer's weights and puts the layer back in its place."""
    for path, layer in list(network.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            network.set_submodule(path, layer.get_base_layer())


def adaptable(
    class_name: str, config: Mapping[str, Any], size: int, modules: Sequence[str], targets: Sequence[str]
) -> dict[str, Any]:
    """Returns what adapters can change in a network, for noised maps of `size`.

    {"found": {target: number of layers}, "layers": names of all layers, "reached": for each of `modules`, whether its
    output depends on a layer of `targets`}. Plans run this in another process, so arguments and result are JSON.
    """
    with on_meta(class_name, config, size) as (family, network, z_1CHW, condition):
        layers = [path for path, layer in network.named_modules() if isinstance(layer, LAYERS)]
        about = {
            "found": {target: len(matching(network, [target])) for target in targets},
            "layers": sorted(set(map(_end, layers))),
        }
        weights = [next(layer.parameters()) for layer in matching(network, targets).values()]
        outputs: dict[str, torch.Tensor] = {}

        def keep(name: str, output: Any) -> None:
            outputs[name] = family.as_map(network, name, output, z_1CHW)

        for name in set(modules):
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: keep(name, output)
            )
        with torch.enable_grad():
            family.run(network, z_1CHW, torch.empty(1), condition)
            return {**about, "reached": [_depends(outputs[name], weights) for name in modules]}


def can_checkpoint(class_name: str, config: Mapping[str, Any], size: int) -> bool:
    """Returns whether a network can compute activations again instead of keeping them. Called in another process."""
    with on_meta(class_name, config, size) as found:
        return bool(found.network._supports_gradient_checkpointing)


def _depends(output: torch.Tensor, weights: Sequence[nn.Parameter]) -> bool:
    if not weights:
        return False
    gradients = torch.autograd.grad(output.sum(), weights, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in gradients)


def _end(path: str) -> str:
    """Returns the end of a module's path that names the kind of layer: "to_out.0" of "blocks.3.attn.to_out.0"."""
    name, *before = reversed(path.split("."))
    return f"{before[0]}.{name}" if name.isdigit() and before else name
