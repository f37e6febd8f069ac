"""What identifies a machine and a process on it, so that one process can tell whether another has exited."""

import os
from pathlib import Path


def machine() -> list[str]:
    """Returns what identifies the machine and PID namespace of this process; empty if the system does not tell."""
    try:
        return [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return []


def started(pid: int) -> str | None:
    """Returns when a process of this machine started, None if it has exited: process ids are reused."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else numbers[18]
