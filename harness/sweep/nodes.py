"""Runs a function once on every machine of the connected Ray cluster."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core.errors import without_secrets

SECONDS = 60.0  # a cold worker on a slow disk takes long to start Python and import the module


class Node(NamedTuple):
    """A machine of the cluster; `resources` is what Ray counts on it, such as {"CPU": 8.0, "GPU": 1.0}."""

    id: str
    name: str  # its address, marked if it is the head, with part of the id if nodes share an address
    address: str
    head: bool
    resources: dict[str, float]


class NodeError(Exception):
    """Why a node returned no result, in one line: the function failed, the node died, or it did not respond."""

    def __init__(self, message: object) -> None:
        super().__init__(without_secrets(" ".join(str(message).split())))


def alive() -> list[Node]:
    """Returns the alive nodes of the connected cluster, the head first."""
    found = [node for node in ray.nodes() if node["Alive"]]
    addresses = [node["NodeManagerAddress"] for node in found]
    nodes = []
    for node in found:
        address, resources = node["NodeManagerAddress"], dict(node["Resources"])
        head = "node:__internal_head__" in resources
        part = f" {node['NodeID'][:6]}" if addresses.count(address) > 1 else ""
        name = f"{address}{part}{' (head)' if head else ''}"
        nodes.append(Node(node["NodeID"], name, address, head, resources))
    return sorted(nodes, key=lambda node: (not node.head, node.name))


def on_every_node(
    function: Callable[..., Any],
    *arguments: Any,
    seconds: float = SECONDS,
    nodes: Sequence[Node] | None = None,
) -> list[tuple[Node, Any]]:
    """Calls `function(*arguments)` on every alive node, or on `nodes`, in parallel, as tasks of 0 CPUs.

    Returns each node with the function's result, or with a `NodeError` if there is none after `seconds`. Results are
    sent to the caller: keep them small. Nothing is retried.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(_call)
    asked = [
        (node, task.options(scheduling_strategy=_on(node)).remote(function, arguments))
        for node in (alive() if nodes is None else nodes)
    ]
    if not asked:
        return []
    references = [reference for _, reference in asked]
    answered, _ = ray.wait(references, num_returns=len(references), timeout=seconds)
    ready = set(answered)
    return [(node, _result(reference, reference in ready, seconds)) for node, reference in asked]


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _on(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _result(reference: Any, ready: bool, seconds: float) -> Any:
    if not ready:
        ray.cancel(reference, force=True)
        return NodeError(f"no response within {seconds:g} s")
    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.RayTaskError as error:  # the function failed, or its module is missing
        return NodeError(f"{type(error.cause).__name__}: {_first(error.cause)}")
    except Exception as error:  # the node or its process died
        return NodeError(f"{type(error).__name__}: {_first(error)}")


def _first(error: Exception) -> str:
    """Returns an error's message without the traceback that Ray may append."""
    return re.split(r"(?i)(traceback: )?traceback \(most recent", str(error))[0].strip()
