"""Findings: what the facts mean, each with a remedy. Pure functions of the facts.

Facts are {"driver": this machine's, "nodes": [each node's], "cluster": whether one responds, "storage": ...}, as
`gather` returns them. Those about a machine hold its name, and what `examine` found or an `error` that prevented it.
"""

import ipaddress
from collections.abc import Iterator
from typing import Literal, NamedTuple

from harness.sweep.doctor.machine import Facts

Level = Literal["bad", "warning", "ok"]

HERE = "this machine"
FREE = 5.0  # GB: with less, a disk may fill up before a sweep ends
SHARED = "give a folder that all nodes share, or a URL such as s3://bucket/results"
ACCESS = "check its name, the credentials (on nodes, an instance role, for example) and the network"
ONE_TOKEN = (
    "put the same token in ~/.ray/auth_token on every node (`ray get-auth-token --generate` creates it, `chmod 600` "
    "protects it) and set RAY_AUTH_MODE=token both for `ray start` and where sweeps are started"
)
OPTIONS = {  # what should not be reachable from outside, and how to prevent it
    "dashboard": "use `ray start --dashboard-host=127.0.0.1` and reach it through ssh -L or `ray dashboard`",
    "client server": "use `ray start --node-ip-address` with a private address; harness does not need ray://",
}


class Finding(NamedTuple):
    """One line of a diagnosis: which machine it concerns, what it is, and what to do about it."""

    level: Level
    where: str
    what: str
    remedy: str = ""


def diagnose(facts: Facts) -> list[Finding]:
    """Returns the findings of `facts`."""
    judges = (connection, versions, gpus, storing, tokens, ports, disks)
    return [finding for judge in judges for finding in judge(facts)]


def some(names: list[str], shown: int = 4) -> str:
    """Returns the first few names and the number of the others."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _nodes(facts: Facts) -> list[Facts]:
    """Returns the facts about the nodes that responded."""
    return [node for node in facts.get("nodes", []) if "error" not in node]


def _machines(facts: Facts) -> list[Facts]:
    """Returns the facts about this machine, where sweeps are started, and the nodes that responded."""
    return [*([facts["driver"]] if "driver" in facts else []), *_nodes(facts)]


def connection(facts: Facts) -> Iterator[Finding]:
    """Whether a cluster and each of its nodes respond."""
    if "stopped" in facts:
        yield Finding("bad", HERE, facts["stopped"], facts["remedy"])
    elif facts.get("refused"):
        yield Finding(
            "bad", HERE, facts["refused"], "check --address, RAY_ADDRESS, and that the cluster is running"
        )
    elif not facts.get("cluster"):
        yield Finding("ok", HERE, "no Ray cluster is running here; checked only this machine")
    for node in facts.get("nodes", []):
        if "error" in node:
            remedy = "check that it is running and has this package: `ray status`, /tmp/ray/session_latest/logs there"
            yield Finding("bad", node["name"], f"could not be checked: {node['error']}", remedy)
        else:
            yield Finding("ok", node["name"], f"Ray counts CPU {node['cpus']:g}, GPU {node['gpus']:g}")
    for seen in _machines(facts):
        for failure in seen["failures"]:
            yield Finding("warning", seen["name"], f"check failed: {failure}", "check this by hand")


def versions(facts: Facts) -> Iterator[Finding]:
    """Whether Python, Ray, torch, other libraries that affect numbers, and this package are the same everywhere."""
    told = {seen["name"]: seen["versions"] for seen in _machines(facts) if "versions" in seen}
    same = []
    for what in next(iter(told.values()), {}):
        names: dict[str, list[str]] = {}
        for name, known in told.items():
            names.setdefault(str(known.get(what)), []).append(name)
        if len(names) == 1:
            same.append(f"{what} {next(iter(names))}")
            continue
        patch = what == "python" and len({value.rpartition(".")[0] for value in names}) == 1
        where = "; ".join(f"{value} on {some(there)}" for value, there in names.items())
        remedy = "install the same version everywhere: set up the nodes again, or change the environment here"
        yield Finding("warning" if patch else "bad", "cluster", f"{what} differs: {where}", remedy)
    if same:
        yield Finding("ok", "cluster" if len(told) > 1 else HERE, ", ".join(same))


def gpus(facts: Facts) -> Iterator[Finding]:
    """Whether Ray and torch see the GPUs of a machine."""
    for seen in _nodes(facts) or _machines(facts):
        name, gpu, counted = seen["name"], seen.get("gpu", {}), seen.get("gpus")
        there, works = gpu.get("devices", 0), gpu.get("torch_sees", 0)
        if not there and not counted:
            yield Finding("ok", name, "no GPU")
        elif not works:
            has = f"Ray counts {counted:g} GPUs" if counted else f"{there} GPUs are installed"
            remedy = (
                "check that nvidia-smi works, that torch is built for the GPU (pytorch.org/get-started), and that "
                "CUDA_VISIBLE_DEVICES does not hide it from `ray start`"
            )
            yield Finding("bad" if counted else "warning", name, f"{has}, but {gpu.get('why')}", remedy)
        elif counted is None or counted == works:
            yield Finding("ok", name, f"{'' if counted is None else 'Ray and '}torch sees {works} GPUs")
        elif counted > works:
            remedy = "omit --num-gpus from `ray start`, or give the number that torch sees"
            yield Finding("bad", name, f"Ray counts {counted:g} GPUs, but torch sees {works}", remedy)
        else:
            remedy = f"use `ray start --num-gpus={works}`, or the other GPUs stay idle"
            yield Finding("warning", name, f"torch sees {works} GPUs, but Ray counts {counted:g}", remedy)


def storing(facts: Facts) -> Iterator[Finding]:
    """Whether all machines read and write the same results folder."""
    seen = facts.get("storage")
    if seen is None:
        return
    place, faults = f"results {seen['place']}", [node for node in seen["nodes"] if node["error"]]
    if seen["error"]:
        remedy = "choose a folder that you can write to" if seen["local"] else ACCESS
        yield Finding("bad", HERE, f"{place}: {seen['error']}", remedy)
        return
    for node in faults:
        yield Finding("bad", node["name"], f"{place}: {node['error']}", SHARED if seen["local"] else ACCESS)
    if seen["nodes"] and not faults:
        what = f"{place}: this machine and {len(seen['nodes'])} nodes can read each other's files"
        yield Finding("ok", "cluster", what)
    elif not seen["nodes"]:
        yield Finding("ok", HERE, f"{place}: can be written and read")


def tokens(facts: Facts) -> Iterator[Finding]:
    """Whether access is protected by one token that only its owner can read."""
    known: dict[str, list[str]] = {}
    told = [(seen["name"], seen["token"]) for seen in _machines(facts) if "token" in seen]
    for name, token in told:
        if token["digest"]:
            known.setdefault(token["digest"], []).append(name)
        if int(token.get("mode", "0"), 8) & 0o077:
            what = (
                f"token file {token['file']} has mode {token['mode']}: other accounts may be able to use it"
            )
            yield Finding("bad" if token["on"] else "warning", name, what, f"chmod 600 {token['file']}")
        elif token["on"] and token["digest"]:
            kept = f"in {token['file']}, mode {token['mode']}" if token["file"] else "in RAY_AUTH_TOKEN"
            yield Finding("ok", name, f"token authentication is on; the token is {kept}")
        elif token["on"] and (facts.get("cluster") or facts.get("refused")):
            yield Finding("bad", name, f"RAY_AUTH_MODE=token, but no token in {token['file']}", ONE_TOKEN)
    if any(token["on"] for _, token in told) and len(known) > 1:
        first, *others = known.values()
        what = f"the token differs from that on {some(first)}: processes started there from now on will be rejected"
        yield Finding("bad", some([name for names in others for name in names]), what, ONE_TOKEN)


def ports(facts: Facts) -> Iterator[Finding]:
    """Whether Ray's sockets are unreachable from outside, or protected by a token."""
    for seen in _nodes(facts):
        name, sockets, on = seen["name"], seen.get("ports", []), seen.get("token", {}).get("on")
        outside = [s for s in sockets if not ipaddress.ip_address(s["address"]).is_loopback]
        for kind, remedy in OPTIONS.items():
            if world := [_socket(s) for s in outside if s["kind"] == kind and _public(s["address"])]:
                guard = (
                    "protected only by its token, which is sent in plain text"
                    if on
                    else "no token is required"
                )
                what = f"Ray's {kind} listens on {some(sorted(set(world)))}: {guard}"
                yield Finding("warning" if on else "bad", name, what, remedy)
        if not sockets:
            what = "found no listening socket of Ray: not Linux, or the processes belong to another account"
            yield Finding("warning", name, what, "run `ss -ltnp` as the account that runs Ray")
        elif not outside:
            yield Finding("ok", name, "Ray listens only on this machine")
        elif on:
            yield Finding(
                "ok",
                name,
                "Ray can be reached from other machines; the token protects everything except metrics",
            )
        else:
            what = (
                "Ray can be reached from other machines without token authentication: anyone who reaches its ports "
                f"can run code as {seen.get('user')}"
            )
            yield Finding("bad", name, what, f"{ONE_TOKEN}; until then, block the ports with a firewall")


def _public(address: str) -> bool:
    return ipaddress.ip_address(address).is_unspecified or ipaddress.ip_address(address).is_global


def _socket(listening: Facts) -> str:
    address = listening["address"]
    return f"{f'[{address}]' if ':' in address else address}:{listening['port']}"


def disks(facts: Facts) -> Iterator[Finding]:
    """Whether each machine has enough space for results, caches and Ray's own files."""
    for seen in _machines(facts):
        for disk in seen.get("disks", []):
            if disk["free"] < FREE:
                what = f"only {disk['free']:.1f} GB free at {disk['path']}"
                yield Finding("warning", seen["name"], what, f"free at least {FREE:g} GB")
