"""Runs a function in another process, so that this one need not import the libraries that the function uses.

Planning inspects networks and pickles, which takes torch; the planning process itself never imports it. Arguments
and results are JSON, one line each. The other process starts with the first call, which takes seconds, serves later
calls, and exits when none has come for a while.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

from harness.core.errors import UserError
from harness.core.registry import load_attribute

IDLE_SECONDS = 20
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}  # what matters is raised instead


def apart(where: str, *arguments: Any) -> Any:
    """Returns what the function "module:function" returns for JSON-like `arguments`, as plain JSON values.

    If this process has already imported the module, the function runs here. Raises the function's `UserError`, and
    `RuntimeError` with the traceback of any other exception.
    """
    request = json.dumps([where, arguments])
    if where.partition(":")[0] in sys.modules:
        return json.loads(json.dumps(_call(request)))
    answer = json.loads(_ask(request))
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    if "error" in answer:
        raise RuntimeError(f"{where} failed in another process:\n{answer['error']}")
    return answer["result"]


def serve() -> None:
    """Answers requests on stdin until the parent process exits, or none has come for `IDLE_SECONDS`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        request = sys.stdin.readline()
        if not request:
            break
        print(_answer(request), file=answers, flush=True)


def _call(request: str) -> Any:
    where, arguments = json.loads(request)
    return load_attribute(where)(*arguments)


def _answer(request: str) -> str:
    try:
        return json.dumps({"result": _call(request)})
    except UserError as error:
        return json.dumps({"user_error": str(error)})
    except Exception:
        return json.dumps({"error": traceback.format_exc()})


class _Other:
    """The other process."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "from harness.core.apart import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, **QUIET},
        )

    def ask(self, request: str) -> str:
        """Returns the answer; raises `EOFError` if the process has exited."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{request}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        answer = self._process.stdout.readline()
        if not answer:
            raise EOFError
        return answer

    def stop(self) -> int:
        """Kills the process and returns its exit status."""
        self._process.kill()
        self._process.stdout.close()  # type: ignore[union-attr]
        with suppress(BrokenPipeError):  # written while it was exiting
            self._process.stdin.close()  # type: ignore[union-attr]
        return self._process.wait()


_other: _Other | None = None
_turn = threading.Lock()


def _ask(request: str) -> str:
    """Returns the other process's answer; starts it, again if it has exited since the last call."""
    global _other
    with _turn:
        for fresh in [False, True] if _other is not None else [True]:
            if _other is None:
                _other = _Other()
            try:
                return _other.ask(request)
            except EOFError:
                status = _stop()
                if fresh:
                    raise RuntimeError(
                        f"the process running {json.loads(request)[0]} exited with status {status}"
                    ) from None
            except BaseException:  # interrupted: the next request would get this one's answer
                _stop()
                raise
    raise AssertionError("a fresh process answers or fails")


@atexit.register
def _stop() -> int | None:
    global _other
    ended, _other = _other, None
    return None if ended is None else ended.stop()
