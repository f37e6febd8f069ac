"""Counts the blocks of a network in a pass on torch's meta device: shapes and operations, without data or weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.models.backbones.condition_tensors import like
from harness.models.backbones.family import Family, family_named


def count(class_name: str, config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Returns the steps up to each block, and the cost after the last, for one image's map of `size`.

    {"steps": [[name, channels, size, cost, points]], "rest": cost} with points [part, name, channels, size]. Costs
    are multiply-accumulates. Plans run this in another process, so arguments and result are JSON.
    """
    with on_meta(class_name, config, size) as (family, network, z_1CHW, condition):
        return _counted(family, network, family.block_names(config), z_1CHW, condition)


class OnMeta(NamedTuple):
    """A network without data, with the input of one image."""

    family: Family
    network: Any  # in evaluation mode
    z_1CHW: torch.Tensor
    condition: dict[str, torch.Tensor]  # with a batch dimension


@contextmanager
def on_meta(class_name: str, config: Mapping[str, Any], size: int) -> Iterator[OnMeta]:
    """Context manager that yields a network and its input on torch's meta device, where new tensors go too."""
    family = family_named(class_name).variant(config)
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network = family.build(config).eval()
        z_1CHW = torch.empty(1, family.channels(config), size, size)
        condition = {
            name: value[None].to("meta") for name, value in like(family.condition_shapes(config)).items()
        }
        yield OnMeta(family, network, z_1CHW, condition)


def _counted(
    family: Family, network: Any, names: list[str], z_1CHW: torch.Tensor, condition: dict[str, torch.Tensor]
) -> dict[str, Any]:
    modules = [name for name, _ in network.named_modules()]
    parts = {name: family.points(name, modules) for name in names}
    read = list(dict.fromkeys([*names, *(path for one in parts.values() for path in one.values())]))
    shapes: dict[str, tuple[int, int]] = {}
    reached: dict[str, float] = {}
    with FlopCounterMode(display=False) as counter:

        def keep(name: str, output: Any) -> None:
            _, channels, height, _ = family.as_map(network, name, output, z_1CHW).shape
            shapes[name], reached[name] = (channels, height), counter.get_total_flops() / 2

        hooks = [
            network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: keep(name, output)
            )
            for name in read
        ]
        family.run(network, z_1CHW, torch.empty(1, device="meta"), condition)
        total = counter.get_total_flops() / 2
    for hook in hooks:
        hook.remove()
    order = [name for name in reached if name in names]
    steps, before = [], 0.0
    for name in order:
        points = [[part, path, *shapes[path]] for part, path in parts[name].items() if path in shapes]
        steps.append([name, *shapes[name], reached[name] - before, points])
        before = reached[name]
    return {"steps": steps, "rest": total - before}
