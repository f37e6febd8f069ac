"""Runs in the separate process: checks this machine, the cluster and the results, and prints facts."""

import json
import logging
import secrets
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray

from harness.core.storage import Storage
from harness.sweep.cluster import find_cluster
from harness.sweep.doctor.findings import HERE
from harness.sweep.doctor.gather import FACT
from harness.sweep.doctor.machine import Facts, examine, reason
from harness.sweep.nodes import Node, NodeError, alive, on_every_node

CONNECTING, LOOKING = 40.0, 100.0  # seconds that a step may take
STORING = 45.0  # seconds for all nodes to read and write


def tell() -> None:
    """Prints facts as lines of JSON, each as soon as it is known. Reads the request from standard input."""
    request = json.loads(sys.stdin.read())
    storage = Storage(request["results"])
    examining = (secrets.token_hex(16), [str(storage.local)] if storage.local else [])
    _step("the check of this machine")
    _say(driver={"name": HERE, **examine(*examining)})
    _step(f"the results folder {storage.describe()}")
    _say(storage=exchange(storage, []))
    nodes = _tell_nodes(_connect(request["address"]), examining)
    if nodes:
        _step(f"the results folder {storage.describe()}")
        _say(storage=exchange(storage, nodes))
    _say(step=None)


def _say(**facts: Any) -> None:
    print(f"{FACT}{json.dumps(facts)}", flush=True)


def _step(what: str, seconds: float = LOOKING) -> None:
    _say(step=what, silent=seconds)


def _connect(address: str | None) -> list[Node]:
    """Connects to the cluster that a sweep would use and returns its nodes; reports why if there is none."""
    _step("the search for a Ray cluster")
    try:
        found = find_cluster(address)
        _say(cluster=found is not None)
        if found is None:
            return []
        _step(f"the Ray cluster at {found}", CONNECTING)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return alive()
    except Exception as error:
        _say(cluster=False, refused=reason(error))
        return []


def _tell_nodes(nodes: list[Node], examining: tuple[str, list[str]]) -> list[Node]:
    """Reports the facts about all nodes; returns the nodes that responded."""
    _step(f"one of {len(nodes)} nodes")
    told, answered = [], []
    for node, seen in on_every_node(examine, *examining, nodes=nodes):
        counted = {"cpus": node.resources.get("CPU", 0.0), "gpus": node.resources.get("GPU", 0.0)}
        if isinstance(seen, NodeError):
            seen = {"error": str(seen)}
        else:
            answered.append(node)
        told.append({"name": node.name, "head": node.head, **counted, **seen})
    _say(nodes=told)
    return answered


def exchange(storage: Storage, nodes: Sequence[Node]) -> Facts:
    """Writes files to the results folder and reads them, here and on `nodes`, then removes them."""
    local = storage.local
    facts: Facts = {"place": storage.describe(), "local": bool(local), "error": None, "nodes": []}
    folder, text, made = f".doctor-{uuid.uuid4().hex}", secrets.token_bytes(16), []
    try:
        made = [path for path in (local, *local.parents) if not path.exists()] if local else []
        storage.write(f"{folder}/driver", text)
        facts["error"] = _unlike(storage, f"{folder}/driver", text)
        for node, answer in on_every_node(
            exchange_on_node, storage, folder, text, seconds=STORING, nodes=nodes
        ):
            error = str(answer) if isinstance(answer, NodeError) else answer["error"]
            if error is None:
                error = _unlike(storage, answer["wrote"], text, "a file that this node wrote")
            facts["nodes"].append({"name": node.name, "error": error})
    except Exception as error:
        facts["error"] = reason(error)
    with suppress(Exception):
        storage.remove(folder)
        for path in made:
            path.rmdir()
    return facts


def exchange_on_node(storage: Storage, folder: str, text: bytes) -> Facts:
    """Runs on a node: reads the driver's file, then writes one for the driver to read."""
    error = _unlike(storage, f"{folder}/driver", text, "on this node, a file written by the driver")
    name = f"{folder}/{uuid.uuid4().hex}"
    try:
        if error is None:
            storage.write(name, text)
    except Exception as failure:
        error = f"this node cannot write: {reason(failure)}"
    return {"wrote": name, "error": error}


def _unlike(storage: Storage, path: str, text: bytes, what: str = "a file just written") -> str | None:
    """Returns why a file does not hold `text`, None if it does."""
    try:
        return None if storage.read(path) == text else f"{what} has different content"
    except FileNotFoundError:
        return f"{what} is missing"
    except Exception as error:
        return f"{what} cannot be read: {reason(error)}"
