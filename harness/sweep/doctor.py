"""What would go wrong with a sweep here: facts of every machine, and findings with their remedies.

Facts are gathered by a process of its own: a connection that a cluster refuses never returns to Python, and a
storage that hangs may not either. This process reads what that one tells, a line a fact, and ends it when it is
silent for too long. Findings are functions of facts alone.
"""

import getpass
import hashlib
import hmac
import importlib
import ipaddress
import json
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, Literal, NamedTuple

import yaml
from packaging.requirements import Requirement

import harness
from harness.core.errors import UserError
from harness.core.storage import Storage

Facts = dict[str, Any]
Level = Literal["bad", "warning", "ok"]
LEVELS: tuple[Level, ...] = ("bad", "warning", "ok")

HERE = "this machine"
FREE = 5.0  # GB: below it, a disk may be full before a sweep ends
CLOCK = 5.0  # seconds that clocks may differ
FACT = "harness fact: "  # before each line of the process that tells facts; libraries print others
CONNECTING, SILENT, STORING = (
    40.0,
    100.0,
    45.0,
)  # seconds: to connect, between two facts, for a round of storage
SHARED = "name a folder that all nodes share, or a URL such as s3://bucket/results"
ONE_TOKEN = (
    "put one token in ~/.ray/auth_token on every node (`ray get-auth-token --generate` makes it, `chmod 600` shuts "
    "it) and set RAY_AUTH_MODE=token both for `ray start` and where sweeps are started"
)


class Finding(NamedTuple):
    """One line of a diagnosis: where it holds, what is the matter, and what to do about it."""

    level: Level
    where: str
    what: str
    remedy: str = ""


class Diagnosis(NamedTuple):
    """All findings, the bad ones first, and the machines that were looked at."""

    nodes: list[Facts]
    findings: list[Finding]

    @property
    def bad(self) -> bool:
        """Says whether a sweep should not be started like this."""
        return any(finding.level == "bad" for finding in self.findings)

    def summary(self) -> Facts:
        """Returns what `--json` prints."""
        return {"nodes": self.nodes, "findings": [finding._asdict() for finding in self.findings]}

    def lines(self) -> list[str]:
        """Returns what people read: a line a finding, a line a remedy, and the count of each level."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level:<8} {finding.where}: {finding.what}")
            lines += [f"{'':<8} → {finding.remedy}"] if finding.remedy else []
        counts = [f"{sum(f.level == level for f in self.findings)} {level}" for level in LEVELS]
        seen = f"{len(self.nodes)} nodes" if len(self.nodes) > 1 else self.nodes[0]["name"]
        return [*lines, f"{seen} looked at: {', '.join(counts)}"]


def doctor(results: str, address: str | None) -> Diagnosis:
    """Looks at a results folder and the cluster at `address`, or the one that runs here, or this machine alone.

    Starts no cluster, leaves nothing behind, and ends in minutes whatever hangs. Raises `UserError`.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        raise UserError(
            "--address local would start a cluster; doctor looks at one that runs: leave --address out"
        )
    storage = Storage(results)  # bad URLs end here
    request = {"address": address, "results": str(storage.local or storage.url), "alone": False}
    facts = gather(request)
    if "stopped" in facts and facts["step"] == "connecting":
        facts = {**gather({**request, "alone": True}), **{key: facts[key] for key in ("stopped", "remedy")}}
    found = diagnose(facts) + placeholders(Path.cwd(), facts.get("cluster_name"))
    return Diagnosis(_machines(facts), _sorted(found))


def diagnose(facts: Facts) -> list[Finding]:
    """Returns the findings of `facts` as `gather` returns them."""
    judges = (connection, versions, requirements, gpus, storing, tokens, ports, disks, clocks)
    return [finding for judge in judges for finding in judge(facts)]


def _sorted(findings: list[Finding]) -> list[Finding]:
    """Returns findings by level; those that say the same of several machines become one. Hides credentials."""
    places: dict[tuple[Level, str, str], list[str]] = {}
    for level, where, what, remedy in findings:
        names = places.setdefault((level, masked(what), masked(remedy)), [])
        names += [where] if where not in names else []
    merged = [Finding(level, _some(names), what, remedy) for (level, what, remedy), names in places.items()]
    return sorted(merged, key=lambda finding: LEVELS.index(finding.level))


def _some(names: list[str], shown: int = 4) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def masked(text: str) -> str:
    """Returns `text` without the credentials that URLs in it may carry."""
    text = re.sub(r"(\w://)(?:[^\s/@:]+:\S*|[^\s/@]+)@", r"\1***@", text)
    return re.sub(
        r"(?i)\b(\w*(?:key|secret|token|password|signature|sig|credential))=[^\s&,;]+", r"\1=***", text
    )


def _machines(facts: Facts) -> list[Facts]:
    """Returns what `--json` says of each machine: its facts, without the token's fingerprint."""
    machines = []
    for node in facts.get("nodes") or [{"name": HERE, "facts": facts.get("driver", {})}]:
        outer = {key: value for key, value in node.items() if key != "facts"}
        seen = {key: value for key, value in node.get("facts", {}).items() if key != "machine"}
        if "token" in seen:
            seen["token"] = {key: value for key, value in seen["token"].items() if key != "digest"}
        machines.append({**outer, **seen})
    return machines


# ---------------------------------------------------------------------------------------------------------------
# Findings. Facts are {"driver": facts of this machine, "nodes": [{"name", "head", "gpus", "error" or "facts"}],
# "cluster": bool, ...}; each function says which it reads.


def _nodes(facts: Facts) -> list[tuple[str, Facts]]:
    """Returns the nodes that answered, by name."""
    return [(node["name"], node["facts"]) for node in facts.get("nodes", []) if "facts" in node]


def _people(facts: Facts) -> list[tuple[str, Facts]]:
    """Returns this machine, where sweeps are started, and the nodes that answered."""
    return [*([(HERE, facts["driver"])] if "driver" in facts else []), *_nodes(facts)]


def connection(facts: Facts) -> Iterator[Finding]:
    """Whether a cluster answers, and each of its nodes."""
    if "stopped" in facts:
        yield Finding("bad", HERE, facts["stopped"], facts["remedy"])
    elif not facts.get("cluster"):
        if facts.get("refused"):
            remedy = "check --address and RAY_ADDRESS, and that the cluster runs"
            if "oken" in facts["refused"]:  # Ray's message is long and names many ways
                yield Finding("bad", HERE, f"{facts['refused'].split('. ')[0]}", LACKING)
            else:
                yield Finding("bad", HERE, f"no Ray cluster to look at: {facts['refused']}", remedy)
        else:
            yield Finding("ok", HERE, "no Ray cluster runs here; looked at this machine alone")
    for node in facts.get("nodes", []):
        if "error" in node:
            remedy = (
                "see that it runs and has this package: `ray status`, and its logs in /tmp/ray/session_latest"
            )
            yield Finding("bad", node["name"], f"could not be looked at: {node['error']}", remedy)
        elif facts.get("cluster"):
            yield Finding("ok", node["name"], f"answers; Ray counts {node['counts']}")
    for name, seen in _people(facts):
        for failure in seen.get("failures", []):
            yield Finding("warning", name, f"could not be looked at in part: {failure}", "look there by hand")


def versions(facts: Facts) -> Iterator[Finding]:
    """Whether Python, Ray, torch and this package are the same everywhere."""
    people = _people(facts)
    same = []
    for what, value in VERSIONS.items():
        by_value: dict[str, list[str]] = {}
        for name, seen in people:
            by_value.setdefault(str(value(seen)), []).append(name)
        if len(by_value) > 1:
            told = "; ".join(f"{value} on {_some(names)}" for value, names in by_value.items())
            patch = what == "Python" and len({value.rpartition(".")[0] for value in by_value}) == 1
            remedy = "install the same everywhere: set the nodes up again, or change the environment here"
            yield Finding("warning" if patch else "bad", "cluster", f"{what} differs: {told}", remedy)
        elif by_value:
            same.append(f"{what} {next(iter(by_value))}")
    if same:
        yield Finding("ok", "cluster" if len(people) > 1 else HERE, ", ".join(same))


VERSIONS: dict[str, Callable[[Facts], Any]] = {
    "Python": lambda seen: seen.get("python"),
    "Ray": lambda seen: seen.get("ray"),
    "torch": lambda seen: (seen.get("torch") or "none").partition("+")[
        0
    ],  # +cpu and +cu130 are judged with GPUs
    "harness": lambda seen: seen.get("harness"),
    "source": lambda seen: seen.get("source"),
}


def requirements(facts: Facts) -> Iterator[Finding]:
    """Whether what is installed is what the package's metadata asks for."""
    for name, seen in _people(facts):
        unmet = seen.get("unmet")
        if unmet is None:
            what = "harness runs from a folder and is not installed: what it requires is not known"
            yield Finding("warning", name, what, "pip install -e . in its folder")
        elif unmet:
            remedy = "pip install -e . in the package's folder, with the Python that runs it"
            yield Finding("bad", name, f"required, and not there: {'; '.join(unmet)}", remedy)
        else:
            yield Finding("ok", name, "installed packages are in the required ranges")


def gpus(facts: Facts) -> Iterator[Finding]:
    """Whether Ray and torch see the GPUs that a node has."""
    counted = {node["name"]: node["gpus"] for node in facts.get("nodes", [])}
    for name, seen in _nodes(facts) or _people(facts):
        gpu, ray_counts = seen.get("gpu", {}), counted.get(name)
        there, works = gpu.get("devices", 0), gpu.get("torch_sees", 0)
        if not there and not ray_counts:
            yield Finding("ok", name, "no GPU")
            continue
        level: Level = "bad" if ray_counts else "warning"
        has = (
            f"Ray counts {ray_counts:g} GPUs"
            if ray_counts
            else f"{there} GPU{'s' if there > 1 else ''} there"
        )
        if gpu.get("error"):
            yield Finding(
                level, name, f"{has}; torch cannot say: {gpu['error']}", "see that `import torch` works"
            )
        elif not gpu.get("torch_for"):
            remedy = "install a torch for the GPU: see pytorch.org/get-started"
            yield Finding(level, name, f"{has}, but torch is built for CPUs ({seen.get('torch')})", remedy)
        elif not works:
            remedy = "check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES where `ray start` runs"
            yield Finding(level, name, f"{has}, but torch ({gpu['torch_for']}) sees none", remedy)
        elif ray_counts is None:
            yield Finding("ok", name, f"torch sees {works} GPUs")
        elif ray_counts > works:
            remedy = "leave --num-gpus out of `ray start`, or give the number that torch sees"
            yield Finding("bad", name, f"{has}, but torch sees {works}", remedy)
        elif ray_counts < works:
            remedy = f"`ray start --num-gpus={works}`, or leave it: the others stay idle"
            yield Finding("warning", name, f"torch sees {works} GPUs, but Ray counts {ray_counts:g}", remedy)
        else:
            yield Finding("ok", name, f"Ray and torch see {works} GPUs")


def storing(facts: Facts) -> Iterator[Finding]:
    """Whether all machines read and write the same results folder."""
    seen = facts.get("storage")
    if seen is None:
        return
    place, local = seen["place"], seen["local"]
    if seen.get("error"):
        access = (
            "choose a folder that you may write"
            if local
            else "check the credentials, the bucket and the network"
        )
        yield Finding("bad", HERE, f"results {place}: {seen['error']}", access)
        return
    bad = False
    for node in seen["nodes"]:
        if node["error"]:
            bad = True
            access = SHARED if local else "give the node credentials for it, such as an instance role"
            yield Finding("bad", node["name"], f"results {place}: {node['error']}", access)
    if not bad:
        count = len(seen["nodes"])
        back = (
            f"; {count} node{'s' if count > 1 else ''} and this machine read each other's files"
            if count
            else ""
        )
        yield Finding(
            "ok", "cluster" if count else HERE, f"results {place}: written here and read back{back}"
        )


def tokens(facts: Facts) -> Iterator[Finding]:
    """Whether strangers are kept out by one token that only its owner reads."""
    people, guarded = _people(facts), False
    for name, seen in people:
        token = seen.get("token") or {}
        on = token.get("mode") == "token"
        guarded |= on
        if token.get("open") and (on or not facts.get("cluster")):
            remedy = f"chmod 600 {token['file']}"
            what = f"token file {token['file']} has mode {token['open']}: other accounts may read it"
            yield Finding("bad" if facts.get("cluster") else "warning", name, what, remedy)
        elif on and not token.get("digest") and facts.get("cluster"):
            yield Finding("bad", name, f"RAY_AUTH_MODE=token, but no token: {token.get('file')}", ONE_TOKEN)
        elif on and token.get("digest"):
            kept = f"in {token['file']}, mode 0600" if token["file"] else "in RAY_AUTH_TOKEN"
            yield Finding("ok", name, f"token authentication is on; the token is {kept}")
    known = {
        name: seen["token"]["digest"] for name, seen in people if (seen.get("token") or {}).get("digest")
    }
    if guarded and len(set(known.values())) > 1:
        first = next(iter(known.values()))
        strangers = [name for name, digest in known.items() if digest != first]
        what = f"another token than on {next(iter(known))}: what is started there anew is turned away"
        yield Finding("bad", _some(strangers), what, ONE_TOKEN)


def ports(facts: Facts) -> Iterator[Finding]:
    """Whether Ray's sockets are out of strangers' reach, or guarded by a token."""
    unguarded = []
    for name, seen in _nodes(facts):
        on = (seen.get("token") or {}).get("mode") == "token"
        sockets, addresses = seen.get("ports") or [], seen.get("addresses") or []
        outside = [s for s in sockets if not ipaddress.ip_address(s["address"]).is_loopback]
        for kind, option in (("dashboard", "--dashboard-host=127.0.0.1"), ("client server", None)):
            shown = [s for s in outside if s["kind"] == kind and _public(s["address"])]
            if shown and addresses:
                guard = (
                    "only its token keeps strangers out, and it travels as plain text"
                    if on
                    else "no token is asked"
                )
                remedy = (
                    f"`ray start {option}`, and reach it through ssh -L or `ray dashboard`"
                    if option
                    else "`ray start --node-ip-address` of a private network; harness does not need ray://"
                )
                what = f"Ray's {kind} listens on {_listed(shown)}: {guard}"
                yield Finding("warning" if on else "bad", name, what, remedy)
        if outside and addresses and not on:
            unguarded.append((name, outside, seen.get("user", "its user")))
        elif outside and addresses:
            yield Finding(
                "ok", name, f"Ray listens on {len(outside)} sockets; the token guards all but metrics"
            )
        elif sockets:
            yield Finding("ok", name, "Ray listens for this machine alone")
        else:
            what = "no listening socket of Ray was found: not Linux, or another account's processes"
            yield Finding("warning", name, what, "look with `ss -ltnp` as the account that runs Ray")
    if unguarded:
        _, outside, user = unguarded[0]
        what = (
            f"Ray listens on {_listed(outside)} {'and the like ' if len(unguarded) > 1 else ''}without token "
            f"authentication: whoever reaches these ports runs code as {user}"
        )
        remedy = f"{ONE_TOKEN}; until then, see that a firewall keeps strangers out"
        yield Finding("bad", _some([name for name, _, _ in unguarded]), what, remedy)


def _public(address: str) -> bool:
    known = ipaddress.ip_address(address)
    known = getattr(known, "ipv4_mapped", None) or known
    return known.is_unspecified or known.is_global


def _listed(sockets: list[Facts]) -> str:
    texts = (
        f"[{s['address']}]:{s['port']}" if ":" in s["address"] else f"{s['address']}:{s['port']}"
        for s in sockets
    )
    return _some(sorted(set(texts)))


def disks(facts: Facts) -> Iterator[Finding]:
    """Whether each machine has room for results, caches and Ray's own files."""
    counted = {seen.get("machine") for _, seen in _nodes(facts)}
    for name, seen in _people(facts):
        if name == HERE and seen.get("machine") in counted:
            continue
        low = [disk for disk in seen.get("disks") or [] if disk["free"] < FREE]
        for disk in low:
            what = f"{disk['free']:.1f} GB free at {disk['path']}"
            yield Finding("warning", name, what, f"make room: less than {FREE:g} GB can end a sweep")
        if not low and seen.get("disks"):
            yield Finding("ok", name, f"more than {FREE:g} GB free on each disk that is used")


def clocks(facts: Facts) -> Iterator[Finding]:
    """Whether clocks agree; `early` and `late` bound what a node's clock is ahead of this machine's, in seconds."""
    bad = False
    for clock in facts.get("clocks", []):
        off = max(clock["early"], -clock["late"], 0.0)
        if off > CLOCK:
            bad = True
            way = "ahead of" if clock["early"] > 0 else "behind"
            remedy = (
                "let chrony or systemd-timesyncd set the clock: ages and times of results are wrong otherwise"
            )
            yield Finding("warning", clock["name"], f"clock is {off:.0f} s {way} this machine's", remedy)
    if facts.get("clocks") and not bad:
        yield Finding("ok", "cluster", f"clocks agree within {CLOCK:g} s")


def placeholders(folder: Path, running: str | None) -> list[Finding]:
    """Returns the values that nobody set in the cluster files of `folder`; bad where that cluster is `running`."""
    found = []
    for path in [folder / "cluster.yaml", *sorted((folder / "clusters").glob("*.yaml"))]:
        if not path.is_file():
            continue
        name = str(path.relative_to(folder))
        try:
            values = list(_values(path))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            told = " ".join(str(error).split())
            found.append(Finding("warning", name, f"cannot be read: {told}", "correct it"))
            continue
        unset = [
            f"{word} in line {line}" for line, text in values for word in re.findall(r"SET-[A-Z]+", text)
        ]
        if unset:
            mine = running is not None and ("cluster_name", running) in _pairs(path)
            what = f"not set: {', '.join(dict.fromkeys(unset))}"
            remedy = "write your values there before a cluster is started from it"
            found.append(Finding("bad" if mine else "warning", name, what, remedy))
        elif values:
            found.append(Finding("ok", name, "every value is set"))
    return found


def _values(path: Path) -> Iterator[tuple[int, str]]:
    """Gives the line and text of each value of a YAML file; aliases once, comments and keys not."""
    seen: set[int] = set()

    def walk(node: yaml.Node) -> Iterator[tuple[int, str]]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node.start_mark.line + 1, node.value
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                yield from walk(value)
        elif isinstance(node, yaml.MappingNode):
            for _, value in node.value:
                yield from walk(value)

    for document in yaml.compose_all(path.read_text(encoding="utf-8"), yaml.SafeLoader):
        yield from walk(document)


def _pairs(path: Path) -> set[tuple[str, str]]:
    """Returns the keys and plain values at the top of a YAML file."""
    documents = yaml.compose_all(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    return {
        (key.value, value.value)
        for document in documents
        if isinstance(document, yaml.MappingNode)
        for key, value in document.value
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)
    }


# ---------------------------------------------------------------------------------------------------------------
# Facts of one machine.


def examine(salt: str, places: list[str]) -> Facts:
    """Returns the facts of the machine that calls it; what fails is named in `failures`, the rest is there.

    `places` are paths whose disks are looked at; tokens are told as digests with `salt`.
    """
    parts: dict[str, Callable[[], Any]] = {
        "python": platform.python_version,
        "ray": lambda: _version("ray"),
        "torch": lambda: _version("torch"),
        "harness": lambda: harness.__version__,
        "source": source,
        "unmet": lambda: unmet("harness"),
        "gpu": gpu,
        "token": lambda: token(salt),
        "ports": listening,
        "addresses": addresses,
        "disks": lambda: free(places),
        "user": getpass.getuser,
        "machine": lambda: f"{socket.gethostname()} {uuid.getnode()} {addresses()}",
        "cluster_name": cluster_name,
    }
    facts: Facts = {"failures": []}
    for name, part in parts.items():
        try:
            facts[name] = part()
        except Exception as error:  # one that fails hides none of the others
            facts["failures"].append(f"{name}: {type(error).__name__}: {error}")
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def source() -> str:
    """Returns a fingerprint of this package's files."""
    folder = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js") and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def unmet(package: str, extras: tuple[str, ...] = ()) -> list[str] | None:
    """Returns what `package` requires and is not there, such as "torch>=2.10 (2.9.1)"; None if not installed."""
    try:
        asked = [Requirement(line) for line in requires(package) or []]
    except PackageNotFoundError:
        return None
    missing = []
    for need in asked:
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if extras and need.marker is None:
            continue  # what a package needs without its extras, pip saw to when it was installed
        there = _version(need.name)
        if there is None or not need.specifier.contains(there, prereleases=True):
            missing.append(f"{need.name}{need.specifier} ({there or 'not installed'})")
        elif need.extras:
            missing += unmet(need.name, tuple(sorted(need.extras))) or []
    return list(dict.fromkeys(missing))


TORCH = (
    "import json, torch; "
    "print(json.dumps([torch.version.cuda or torch.version.hip, torch.cuda.device_count()]))"
)


def gpu() -> Facts:
    """Returns how many GPUs have a device file, what torch is built for, and how many it sees."""
    devices = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    other = [path for path in (Path("/dev/kfd"), Path("/dev/dxg")) if path.exists()]
    if not devices and not other and not shutil.which("nvidia-smi"):
        return {"devices": 0}
    facts: Facts = {"devices": len(devices) or 1}
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=45, env=_environment()
        )
    except subprocess.TimeoutExpired:
        return {**facts, "error": "no answer within 45 s"}
    if done.returncode:
        return {**facts, "error": (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]}
    built, count = json.loads(done.stdout.strip().splitlines()[-1])
    return {**facts, "torch_for": built, "torch_sees": count}


def _environment() -> dict[str, str]:
    """Returns the environment of the node's Ray: that of a task without GPUs may hide them."""
    raylet = os.environ.get("RAY_RAYLET_PID")
    try:
        lines = Path(f"/proc/{raylet}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return dict(os.environ)
    return dict(line.split("=", 1) for line in lines if "=" in line)


def token(salt: str) -> Facts:
    """Returns the mode of authentication, where the token lies, its digest, and the file's mode where not shut.

    The order is Ray's: RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
    """
    facts: Facts = {"mode": os.environ.get("RAY_AUTH_MODE", "").lower()}
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return {**facts, "file": None, "digest": _digest(salt, given)}
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    facts["file"] = str(path)
    try:
        mode, content = path.stat().st_mode & 0o777, path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return facts
    if mode & 0o077:
        facts["open"] = f"{mode:04o}"
    return {**facts, "digest": _digest(salt, content)} if content.strip() else facts


def _digest(salt: str, content: str) -> str:
    return hmac.new(salt.encode(), content.strip().encode(), "sha256").hexdigest()


def addresses() -> list[str]:
    """Returns the addresses under which other machines may reach this one."""
    found = {
        entry.address.partition("%")[0]
        for entries in _psutil().net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }
    return sorted(
        a for a in found if not (ip := ipaddress.ip_address(a)).is_loopback and not ip.is_link_local
    )


def listening() -> list[Facts]:
    """Returns the listening sockets of the Ray node that runs the caller: {"kind", "address", "port"}."""
    sockets = []
    for kind, process in _of_ray():
        try:
            found = process.net_connections(kind="tcp")
        except _psutil().Error:
            continue
        for entry in found:
            if entry.status == "LISTEN":
                ip, port = ipaddress.ip_address(entry.laddr.ip), entry.laddr.port
                address = str(getattr(ip, "ipv4_mapped", None) or ip)
                served = port in _served(process.info["cmdline"])
                sockets.append({"kind": kind if served else "node", "address": address, "port": port})
    return sockets


def _served(command: list[str]) -> range:
    """Returns the ports that a dashboard or client server takes for its service; its metrics have another."""
    options = _options(command)
    first = int(options.get("--port", 0))
    return range(first, first + int(options.get("--port-retries", 0)) + 1)


def _options(command: list[str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in command if part.startswith("--") and "=" in part)


def cluster_name() -> str | None:
    """Returns the name of the cluster that the launcher started from this head, or None."""
    for _, process in _of_ray():
        for argument in process.info["cmdline"]:
            if argument.startswith("--autoscaling-config="):
                pairs = _pairs(Path(argument.partition("=")[2]).expanduser())
                return next((value for key, value in pairs if key == "cluster_name"), None)
    return None


def _of_ray() -> Iterator[tuple[str, Any]]:
    """Gives the processes of the Ray node that runs the caller, with their kind; on the head the cluster's too."""
    raylet = int(os.environ.get("RAY_RAYLET_PID") or 0)
    if not raylet:
        return
    every = list(_psutil().process_iter(["pid", "ppid", "cmdline"]))
    line = next((process.info["cmdline"] or [] for process in every if process.pid == raylet), [])
    options = _options(line)
    session, head = options.get("--session-name", "?"), "--head" in line
    served = f"--address={options.get('--gcs-address', '?')}"
    for process in every:
        command = process.info["cmdline"] or []
        text = " ".join(command)
        if head and "ray.util.client.server" in command and served in command:
            yield "client server", process
        elif process.pid == raylet or process.info["ppid"] == raylet:
            yield "node", process
        elif head and session in text and "/raylet/raylet" not in command[0]:
            yield "dashboard" if "dashboard/dashboard.py" in text else "head", process


def _psutil() -> Any:
    importlib.import_module("ray")  # which carries psutil
    return importlib.import_module("psutil")


def free(places: list[str]) -> list[Facts]:
    """Returns the free space in GB of the disks that hold `places`, the home and temporary folders, each once."""
    disks: dict[int, Facts] = {}
    for place in (*places, tempfile.gettempdir(), str(Path.home())):
        path = Path(place)
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        usage = shutil.disk_usage(there)
        if usage.total:  # /proc and its like are no disks
            disks.setdefault(there.stat().st_dev, {"path": str(there), "free": usage.free / 1e9})
    return list(disks.values())


# ---------------------------------------------------------------------------------------------------------------
# Facts of the cluster, told by a process of its own.


def gather(request: Facts, connecting: float = CONNECTING, silent: float = SILENT) -> Facts:
    """Returns what a process of its own tells for {"address", "results"}; `stopped` says why it was ended."""
    command = [sys.executable, "-c", "from harness.sweep.doctor import tell; tell()"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    teller = subprocess.Popen(command, **pipes, text=True, errors="replace", start_new_session=True)
    heard: Queue[tuple[str, str | None]] = Queue()
    streams = {"fact": teller.stdout, "log": teller.stderr}
    listeners = [Thread(target=_listen, args=(*pair, heard), daemon=True) for pair in streams.items()]
    for listener in listeners:
        listener.start()
    try:
        stdin: Any = teller.stdin
        with suppress(BrokenPipeError), stdin:
            stdin.write(json.dumps(request))  # not an argument: other accounts read those
        return _hear(heard, request["address"], connecting, silent)
    finally:
        os.killpg(teller.pid, signal.SIGKILL)  # it is not reaped yet, so the group is there
        with suppress(subprocess.TimeoutExpired):  # a disk that hangs keeps even a killed process
            teller.wait(timeout=5)
        for listener in listeners:
            listener.join(timeout=1)


def _listen(name: str, stream: Any, heard: Queue[tuple[str, str | None]]) -> None:
    with stream:
        for line in stream:
            heard.put((name, line))
    heard.put((name, None))


def _hear(
    heard: Queue[tuple[str, str | None]], address: str | None, connecting: float, silent: float
) -> Facts:
    """Collects facts until the teller ends, is refused, or is silent for too long."""
    facts: Facts = {"step": "the start"}
    said: list[str] = []
    until = time.monotonic() + silent
    while True:
        try:
            name, line = heard.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            return {**facts, **_stopped(facts["step"], address, "does not answer")}
        if name == "log" and line:
            said.append(line.strip())
            if facts["step"] == "connecting" and "InvalidAuthToken" in line:
                return {
                    **facts,
                    **_stopped("connecting", address, f"asks for a token: {_lacking()}", LACKING),
                }
        elif name == "fact" and line and line.startswith(FACT):
            facts.update(json.loads(line.removeprefix(FACT)))
            until = time.monotonic() + (connecting if facts["step"] == "connecting" else silent)
        elif name == "fact" and line is None:
            if facts["step"] != "done":
                facts |= _stopped(facts["step"], address, f"ended it all: {' '.join(said[-2:])[:400]}")
            return facts


def _stopped(step: str, address: str | None, why: str, remedy: str = "") -> Facts:
    """Returns why facts end at `step`."""
    who = (
        f"the Ray cluster {f'at {address}' if address else 'that runs here'}"
        if step == "connecting"
        else step
    )
    return {"stopped": f"{who} {why}", "remedy": remedy or UNSEEN}


UNSEEN = "see that it runs and can be reached; what else would be looked at, was not"
LACKING = (
    "export RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token (mode 0600), or its path in "
    "RAY_AUTH_TOKEN_PATH"
)


def _lacking() -> str:
    """Says what a driver lacks to be let in."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "RAY_AUTH_MODE=token is not set here"
    return "the token here is not the cluster's" if token("").get("digest") else "none is here"


def tell() -> None:
    """Prints facts as lines of JSON, each as soon as it is known. Reads the request on standard input."""
    request = json.loads(sys.stdin.read())
    salt = secrets.token_hex(16)
    storage = Storage(request["results"])
    places = [str(storage.local)] if storage.local else []
    _tell(step="what is installed here")
    _tell(driver=examine(salt, places))
    nodes = None if request["alone"] else _connect(request["address"])
    if nodes is not None:
        nodes = _tell_nodes(nodes, salt, places)
    _tell(step=f"the results folder {storage.describe()}")
    _tell(storage=_storage(storage, nodes or []))
    _tell(step="done")
    sys.stdout.flush()
    os._exit(0)  # leaving a cluster can hang as well


def _tell(**facts: Any) -> None:
    print(f"{FACT}{json.dumps(facts)}", flush=True)


def _connect(address: str | None) -> list[Any] | None:
    """Connects to the cluster that a sweep would take and returns its nodes, or tells why there is none."""
    import ray
    from ray._private.services import get_ray_address_from_environment

    from harness.sweep.nodes import alive

    _tell(step="connecting")
    found = address
    try:
        found = address or get_ray_address_from_environment(None, None)  # "auto" would take any that ps shows
        if found is None:
            _tell(cluster=False)
            return None
        if match := re.fullmatch(r"\[?([^/\]]+)\]?:(\d+)", found):
            socket.create_connection(
                (match[1], int(match[2])), timeout=5
            ).close()  # Ray itself tries for minutes
        ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
        nodes = alive()
    except Exception as error:
        left = "" if address else " (left by one that was killed? then `ray stop` forgets it)"
        _tell(cluster=False, refused=f"{found}{left}: {' '.join(str(error).split())}")
        return None
    _tell(cluster=True)
    return nodes


def _tell_nodes(nodes: list[Any], salt: str, places: list[str]) -> list[Any]:
    """Tells the facts of all nodes and their clocks; returns the nodes that answered."""
    from harness.sweep.nodes import NodeError, on_every_node

    _tell(step=f"{len(nodes)} nodes")
    told, answered = [], []
    for node, seen in on_every_node(examine, salt, places, nodes=nodes):
        counted = node.resources
        facts = {"name": node.name, "head": node.head, "gpus": counted.get("GPU", 0.0)}
        facts["counts"] = f"CPU {counted.get('CPU', 0):g}, GPU {counted.get('GPU', 0):g}"
        if isinstance(seen, NodeError):
            told.append({**facts, "error": str(seen)})
            continue
        answered.append(node)
        told.append({**facts, "facts": seen})
        if node.head and seen.get("cluster_name"):
            _tell(cluster_name=seen["cluster_name"])
    _tell(nodes=told)
    _tell(step="the nodes' clocks")
    clocks = []
    sent = time.time()
    for node, at in on_every_node(_clock, seconds=20, nodes=answered):
        if not isinstance(at, NodeError):
            clocks.append({"name": node.name, "early": at - time.time(), "late": at - sent})
    _tell(clocks=clocks)
    return answered


def _clock() -> float:
    return time.time()


def _storage(storage: Storage, nodes: list[Any]) -> Facts:
    """Writes and reads the results folder from here and from `nodes`, and leaves it as it was."""
    from harness.sweep.nodes import NodeError, on_every_node

    place = str(storage.local or storage.url)
    facts: Facts = {
        "place": storage.describe(),
        "local": storage.local is not None,
        "error": None,
        "nodes": [],
    }
    folder, text, made = f".doctor-{uuid.uuid4().hex}", secrets.token_hex(16), _absent(storage)
    answers: list[tuple[Any, Any]] = []
    try:
        storage.write(f"{folder}/driver", text.encode())
        if storage.read(f"{folder}/driver") != text.encode():
            facts["error"] = "what is written is not what is read"
        answers = on_every_node(_meet, place, folder, text, seconds=STORING, nodes=nodes)
        for node, answer in answers:
            error = str(answer) if isinstance(answer, NodeError) else answer["error"]
            facts["nodes"].append({"name": node.name, "error": error or _unread(storage, folder, answer)})
    except Exception as error:
        facts["error"] = _reason(error)
    finally:
        absent = {node.id: answer["made"] for node, answer in answers if not isinstance(answer, NodeError)}
        if storage.local is not None and absent:
            reached = [node for node in nodes if node.id in absent]
            on_every_node(_leave_node, place, folder, absent, seconds=STORING, nodes=reached)
        _leave(storage, folder, made)
    return facts


def _meet(place: str, folder: str, text: str) -> Facts:
    """On a node: reads what the driver wrote, and writes a file for it to read."""
    storage = Storage(place)
    answer: Facts = {"name": uuid.uuid4().hex, "text": secrets.token_hex(16), "error": None}
    answer["made"] = _absent(storage)
    try:
        if storage.read(f"{folder}/driver") != text.encode():
            answer["error"] = "this node reads other than what was written"
    except FileNotFoundError:
        answer["error"] = "this node does not see what this machine wrote there"
    except Exception as error:
        answer["error"] = f"this node cannot read: {_reason(error)}"
    try:
        storage.write(f"{folder}/{answer['name']}", answer["text"].encode())
    except Exception as error:
        answer["error"] = answer["error"] or f"this node cannot write: {_reason(error)}"
    return answer


def _unread(storage: Storage, folder: str, answer: Facts) -> str | None:
    """Says why the driver does not read what a node wrote, or None."""
    try:
        content = storage.read(f"{folder}/{answer['name']}")
    except Exception as error:
        return f"what this node writes is not read here: {_reason(error)}"
    return None if content == answer["text"].encode() else "what this node writes is read otherwise here"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _absent(storage: Storage) -> list[str]:
    """Returns the folders of a local storage that are not there, the deepest first."""
    if storage.local is None:
        return []
    return [str(path) for path in (storage.local, *storage.local.parents) if not path.exists()]


def _leave_node(place: str, folder: str, made: dict[str, list[str]]) -> None:
    """On a node: `_leave`, with the folders that this node did not have."""
    import ray

    _leave(Storage(place), folder, made.get(ray.get_runtime_context().get_node_id(), []))


def _leave(storage: Storage, folder: str, made: list[str]) -> None:
    """Removes `folder` and, where they are empty, the folders that were `made`."""
    try:
        storage.remove(folder)
        for path in made:
            Path(path).rmdir()
    except OSError:
        return
