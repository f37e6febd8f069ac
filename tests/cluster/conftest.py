"""A user's own machine, as the tests of clusters need it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "sweep"))  # tables of a sweep are compared here too


class Laptop:
    """A checkout, a home with nothing but Ray's token in it, and commands in a clean environment."""

    def __init__(self, folder: Path) -> None:
        self.home, self.checkout, self.tools = folder / "home", folder / "checkout", folder / "tools"
        for place in (self.home / ".ssh", self.home / "tmp", self.tools):
            place.mkdir(parents=True)
        listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.check_output(listed, text=True, timeout=60).split("\0")
        self.files = [name for name in names if name and (ROOT / name).exists()]
        for name in self.files:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self.environment = {
            "PATH": f"{self.tools}:{sys.prefix}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),  # where Ray keeps what it knows of clusters
            "RAY_TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": str(self.checkout),
            "OMP_NUM_THREADS": "1",
            "TERM": "dumb",
        }
        self.run("ray get-auth-token --generate")

    def fill(self, file: str, values: dict[str, object]) -> str:
        """Sets values in a file of the checkout, as a user does in an editor. Returns the file's name."""
        text = (self.checkout / file).read_text()
        for name, value in values.items():
            assert name in text
            text = text.replace(name, str(value))
        (self.checkout / file).write_text(text)
        return file

    def start(self, command: str, log: Path, **environment: str) -> subprocess.Popen[str]:
        """Starts a command line in the checkout, with its output in `log`."""
        with log.open("w") as output:
            return subprocess.Popen(
                command,
                shell=True,
                cwd=self.checkout,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )

    def run(self, command: str, *, timeout: float = 180, fails: bool = False, **environment: str) -> str:
        """Runs a command line in the checkout and returns what it printed."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.checkout,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        printed = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{printed}"
        return printed


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    return Laptop(tmp_path_factory.mktemp("laptop"))
