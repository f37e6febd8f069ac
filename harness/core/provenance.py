"""Provenance: the columns that record which code and libraries produced a row. An allow-list."""

import platform
import subprocess
import time
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness

LIBRARIES = ("ray", "torch", "diffusers", "numpy", "scikit-learn")


def provenance() -> dict[str, str | bool | None]:
    """Returns the provenance of a run that starts now."""
    commit = _git("rev-parse", "HEAD")
    return {
        "run": f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}",
        "harness_version": harness.__version__,
        "code_commit": commit,
        "code_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
        "python_version": platform.python_version(),
        **{f"{library.replace('-', '_')}_version": _version(library) for library in LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Asks git about the harness's own checkout; None if it is installed without one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
