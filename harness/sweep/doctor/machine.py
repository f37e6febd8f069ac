"""Facts about one machine: what is installed, its GPUs, its token, the ports that Ray opened, its disks."""

import getpass
import hashlib
import hmac
import importlib
import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import harness
from harness.core.errors import UserError, without_secrets
from harness.core.provenance import provenance

Facts = dict[str, Any]


def examine(salt: str, places: list[str]) -> Facts:
    """Returns the facts about the machine that it runs on; checks that fail are listed in `failures`.

    `places` are paths whose disks are checked; the token is reported as a digest with `salt`.
    """
    parts: dict[str, Callable[[], Any]] = {
        "versions": versions,
        "gpu": gpu,
        "token": lambda: token(salt),
        "ports": ports,
        "disks": lambda: disks(places),
        "user": getpass.getuser,
    }
    facts: Facts = {"failures": []}
    for name, part in parts.items():
        try:
            facts[name] = part()
        except Exception as error:  # a failed check must not hide the others
            facts["failures"].append(f"{name}: {reason(error)}")
    return facts


def reason(error: Exception) -> str:
    """Returns an error as one line, with secrets from this machine's environment masked."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return without_secrets(" ".join(f"{kind}{error}".split()))


def versions() -> dict[str, str]:
    """Returns the versions that rows record, and a fingerprint of this package's files."""
    told = {name: value for name, value in provenance().items() if name.endswith("_version")}
    # The build of torch, as in 2.13.0+cpu, may differ: a head node needs no GPU build.
    known = {name.removesuffix("_version"): str(value).partition("+")[0] for name, value in told.items()}
    return {**known, "source": _source()}


def _source() -> str:
    folder = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".html", ".css", ".js"):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


TORCH = "import torch; print(torch.cuda.device_count(), torch.version.cuda or torch.version.hip)"


def gpu() -> Facts:
    """Returns how many GPUs have a device file, how many torch sees and, if none, why."""
    kinds = ("nvidia[0-9]*", "kfd", "dxg")  # NVIDIA, AMD, Windows
    devices = sum(len(list(Path("/dev").glob(kind))) for kind in kinds)
    told = _torch_sees() if devices else {"torch_sees": 0, "why": "there is no GPU device"}
    return {"devices": devices, **told}


def _torch_sees() -> Facts:
    command = [sys.executable, "-c", TORCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=45, env=_environment())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return {"torch_sees": 0, "why": f"torch fails: {last}"}
    count, built = done.stdout.split()[-2:]
    why = "torch is a CPU build" if built == "None" else f"torch for {built} sees none"
    return {"torch_sees": int(count), "why": why}


def _environment() -> dict[str, str]:
    """Returns the environment of the node's Ray: that of a task without GPUs may hide them."""
    try:
        content = Path(f"/proc/{os.environ['RAY_RAYLET_PID']}/environ").read_text(errors="replace")
    except (KeyError, OSError):
        return dict(os.environ)
    return dict(line.split("=", 1) for line in content.split("\0") if "=" in line)


def token(salt: str) -> Facts:
    """Returns whether token authentication is on, the token's file and its mode, and a digest of the token.

    The order is Ray's: RAY_AUTH_TOKEN, the file at RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
    """
    on = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    facts: Facts = {"on": on, "file": None, "digest": None}
    content = os.environ.get("RAY_AUTH_TOKEN")
    if not content:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        facts["file"] = str(path)
        try:
            facts["mode"] = f"{path.stat().st_mode & 0o777:04o}"
            content = path.read_text(errors="replace")
        except OSError:
            return facts
    if content.strip():
        facts["digest"] = hmac.new(salt.encode(), content.strip().encode(), "sha256").hexdigest()
    return facts


SERVERS = {"dashboard": "dashboard/dashboard.py", "client server": "ray.util.client.server"}


def ports() -> list[Facts]:
    """Returns the listening sockets of the Ray cluster that runs the caller, those on this machine."""
    raylet = int(os.environ.get("RAY_RAYLET_PID", "0"))
    if not raylet:
        return []
    importlib.import_module("ray")  # bundles psutil
    psutil = importlib.import_module("psutil")
    commands = {it: " ".join(it.info["cmdline"] or []) for it in psutil.process_iter(["ppid", "cmdline"])}
    started = next((command for it, command in commands.items() if it.pid == raylet), "")
    marks = re.findall(r"--(?:session-name=|gcs-)(\S+)", started)
    sockets = []
    for process, command in commands.items():  # workers, which Ray renames, are found as children
        if process.info["ppid"] == raylet or any(mark in command for mark in marks):
            with suppress(psutil.Error):  # exited, or belongs to another account
                found = process.net_connections(kind="tcp")
                sockets += [_socket(command, entry.laddr) for entry in found if entry.status == "LISTEN"]
    return sockets


def _socket(command: str, local: Any) -> Facts:
    served = f"--port={local.port} " in f"{command} "  # the dashboard's other ports serve metrics
    kind = next((kind for kind, program in SERVERS.items() if served and program in command), "node")
    ip = ipaddress.ip_address(local.ip)
    return {"kind": kind, "address": str(getattr(ip, "ipv4_mapped", None) or ip), "port": local.port}


def disks(places: list[str]) -> list[Facts]:
    """Returns the free space in GB on the disks of `places`, the home and the temporary folder, each disk once."""
    found: dict[int, Facts] = {}
    for place in (*places, tempfile.gettempdir(), str(Path.home())):
        there = next(path for path in (Path(place), *Path(place).parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        found.setdefault(there.stat().st_dev, {"path": str(there), "free": free})
    return list(found.values())
