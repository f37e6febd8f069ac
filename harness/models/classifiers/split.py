"""Splits a network where some of its parameters first matter: what precedes is the same for every value of them.

The network is traced once with `torch.export` into a graph of operations; those that depend on the varied parameters
are the rest, all others run once for any number of networks. The split may lie in the middle of a block.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

Values = dict[fx.Node, Any]


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[torch.Tensor]:
    """Replaces the operator that `torch.export` produces, for which `vmap` has no rule but a loop."""
    return (nn.functional.batch_norm(x, mean, variance, weight, bias, False, momentum, epsilon),)


INSTEAD: dict[Any, Any] = {torch.ops.aten._native_batch_norm_legit_no_training.default: _batch_norm}


class Split:
    """A network as two functions: `prefix(x)` and `rest(varied, kept)`; logits are exactly the network's.

    For batches of the traced shape, in evaluation mode.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], x_BCHW: torch.Tensor) -> None:
        """Traces `network` on images like `x_BCHW`. Raises what `torch.export` does for one that cannot be traced."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network.eval(), (x_BCHW,)).run_decompositions({})
        nodes = list(program.graph.nodes)
        by_name = {node.name: node for node in nodes}
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self._fixed: Values = {}
        self._varied: dict[str, fx.Node] = {}
        for given in program.graph_signature.input_specs:
            node = by_name[given.arg.name]
            if given.kind == InputKind.USER_INPUT:
                self._image = node
            elif given.target in names:
                self._varied[given.target] = node
            else:
                target = str(given.target)
                value = state[target] if target in state else program.constants[target]
                self._fixed[node] = value.detach() if isinstance(value, torch.Tensor) else value
        (self._output,) = nodes[-1].args[0]
        depends = set(self._varied.values())
        for node in nodes[:-1]:
            if any(before in depends for before in node.all_input_nodes):
                depends.add(node)
        operations = [node for node in nodes[:-1] if node.op != "placeholder"]
        self._rest = [node for node in operations if node in depends]
        wanted = {before for node in [*self._rest, nodes[-1]] for before in node.all_input_nodes}
        self._kept = [node for node in [self._image, *operations] if node in wanted and node not in depends]
        self._prefix = _leading_to(self._kept, operations)

    def prefix(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Returns what the rest needs from a batch of images."""
        values = {**self._fixed, self._image: x_BCHW}
        return _run(self._prefix, values, self._kept)

    def rest(self, varied: Mapping[str, torch.Tensor], kept: Sequence[torch.Tensor]) -> torch.Tensor:
        """Returns logits [B, classes] for one value of the varied parameters. Works under `torch.func.vmap`."""
        values = {**self._fixed, **dict(zip(self._kept, kept, strict=True))}
        values |= {self._varied[name]: value for name, value in varied.items() if name in self._varied}
        return _run(self._rest, values, [self._output])[0]

    def bytes_an_image(self) -> tuple[int, int]:
        """Returns the peak memory for one image: of the prefix, and of the rest for one network."""
        images = self._image.meta["val"].shape[0]
        kept = sum(map(_size, self._kept))
        return (
            (_most(self._prefix, self._kept) + kept) // images,
            (_most(self._rest, [self._output])) // images,
        )


def _leading_to(wanted: Iterable[fx.Node], operations: Sequence[fx.Node]) -> list[fx.Node]:
    """Returns the operations that `wanted` need, themselves included, in order."""
    found: set[fx.Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node.op != "placeholder" and node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return [node for node in operations if node in found]


def _last_uses(nodes: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Returns the values that are no longer needed after each operation."""
    last = {before: node for node in nodes for before in node.all_input_nodes}
    found: dict[fx.Node, list[fx.Node]] = {}
    for before, node in last.items():
        found.setdefault(node, []).append(before)
    return found


def _run(nodes: Sequence[fx.Node], values: Values, results: Sequence[fx.Node]) -> list[Any]:
    """Runs operations in order; drops values that no later operation needs."""
    spent = _last_uses(nodes)
    for node in nodes:
        args: Any = map_arg(node.args, values.__getitem__)
        kwargs: Any = map_arg(node.kwargs, values.__getitem__)
        values[node] = INSTEAD.get(node.target, node.target)(*args, **kwargs)
        for before in spent.get(node, ()):
            if before not in results:
                del values[before]
    return [values[node] for node in results]


def _most(nodes: Sequence[fx.Node], results: Sequence[fx.Node]) -> int:
    """Returns the peak size in bytes of the values that `_run` has computed."""
    spent, computed = _last_uses(nodes), set(nodes)
    held, most = 0, 0
    for node in nodes:
        held += _size(node)
        most = max(most, held)
        held -= sum(_size(one) for one in spent.get(node, ()) if one in computed and one not in results)
    return most


def _size(node: fx.Node) -> int:
    """Returns the bytes of a value; an operation with several results counts where they are unpacked."""
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
