"""Functions run in another process: JSON in and out, errors travel back, one process serves several calls."""

import os
import subprocess
import sys

import pytest

from harness.core import apart as module
from harness.core.apart import apart
from harness.core.errors import UserError

SOURCE = """
import os
from harness.core.errors import UserError

def pid():
    print("noise that is not an answer")
    return os.getpid()

def echo(*values):
    return {"values": values}

def refuse(value):
    raise UserError(f"value = {value}: expected another")

def fail():
    raise ZeroDivisionError("nothing to divide")

def end():
    os._exit(7)
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A module on the path that only the other process imports."""
    (tmp_path / "only_there.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module._stop()  # one that an earlier test left knows the earlier path
    yield "only_there"
    module._stop()
    assert "only_there" not in sys.modules


def test_arguments_and_results_are_plain_values(other):
    assert apart(f"{other}:echo", [1, 2], {"a": (None, 0.5)}) == {"values": [[1, 2], {"a": [None, 0.5]}]}


def test_one_process_serves_several_calls(other):
    first = apart(f"{other}:pid")
    assert first != os.getpid()
    assert apart(f"{other}:pid") == first


def test_errors_travel_back(other):
    with pytest.raises(UserError, match=r"^value = 3: expected another$"):
        apart(f"{other}:refuse", 3)
    with pytest.raises(
        RuntimeError, match=r"(?s)only_there:fail failed.*ZeroDivisionError: nothing to divide"
    ):
        apart(f"{other}:fail")
    assert apart(f"{other}:echo") == {"values": []}


def test_a_process_that_ended_is_started_again(other):
    first = apart(f"{other}:pid")
    module._other._process.kill()
    module._other._process.wait()
    assert apart(f"{other}:pid") != first


def test_a_function_that_ends_the_process_is_an_error(other):
    with pytest.raises(RuntimeError, match="the process running only_there:end exited with status 7"):
        apart(f"{other}:end")


def test_it_ends_by_itself_when_it_is_idle():
    program = "import harness.core.apart as module; module.IDLE_SECONDS = 0.1; module.serve()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0


def test_a_module_that_is_imported_anyway_is_not_imported_twice():
    assert apart(f"{__name__}:here", 2) == [2, 2]
    assert module._other is None


def here(value):
    return value, value
