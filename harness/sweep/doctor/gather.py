"""Gathers facts in a separate process, which is killed if it stops reporting.

A connection that a cluster refuses never returns to Python, and a storage that hangs may not either.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

from harness.sweep.doctor.findings import ONE_TOKEN
from harness.sweep.doctor.machine import Facts

FACT = "harness fact: "  # prefix of the lines with facts; libraries print other lines
SILENT = 100.0  # seconds to wait for the first fact
UNSEEN = "check that it is running and reachable; the remaining checks were skipped"
Lines = Queue[str | None]  # of two streams, each ended by None


def gather(results: str, address: str | None, silent: float = SILENT) -> Facts:
    """Returns the facts about this machine and the cluster; if incomplete, `stopped` says why."""
    command = [sys.executable, "-c", "from harness.sweep.doctor.tell import tell; tell()"]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    teller = subprocess.Popen(command, **pipes, text=True, errors="replace", start_new_session=True)
    lines: Lines = Queue()
    stdin: Any = teller.stdin
    streams: Any = (teller.stdout, teller.stderr)
    listeners = [Thread(target=_listen, args=(stream, lines), daemon=True) for stream in streams]
    for listener in listeners:
        listener.start()
    try:
        with suppress(BrokenPipeError), stdin:
            stdin.write(json.dumps({"results": results, "address": address}))
        return hear(lines, silent)
    finally:
        os.killpg(teller.pid, signal.SIGKILL)  # not reaped yet, so the group still exists
        with suppress(subprocess.TimeoutExpired):  # a hanging disk can keep even a killed process alive
            teller.wait(timeout=5)
        for listener in listeners:
            listener.join(timeout=1)


def _listen(stream: IO[str], lines: Lines) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def hear(lines: Lines, silent: float) -> Facts:
    """Collects facts until the process has reported all, exits, is rejected, or stops reporting."""
    facts: Facts = {"step": "Python", "silent": silent}
    said: list[str] = []
    until, running, stopped, remedy = time.monotonic() + silent, 2, "", UNSEEN
    while facts["step"] is not None and not stopped:
        try:
            line = lines.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            stopped = "does not respond"
            continue
        if line is None:
            running -= 1
            stopped = "" if running else f"crashed the check: {' '.join(said[-2:])[:400]}"
        elif line.startswith(FACT):
            facts.update(json.loads(line.removeprefix(FACT)))
            until = time.monotonic() + facts["silent"]
        elif "InvalidAuthToken" in line:
            stopped, remedy = "rejects the token, or requires one", ONE_TOKEN
        else:
            said.append(line.strip())
    return {**facts, "stopped": f"{facts['step']} {stopped}", "remedy": remedy} if stopped else facts
