"""What all tests share: an empty context, and hypothesis without clocks or a database."""

import gc
import os
import sys

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the networks here are too small to share out
# Otherwise every run rewrites all tests anew, and every process that a test starts compiles the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("harness", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("harness")


def pytest_collection_finish():
    """Spares the garbage collector the objects of all libraries: each full collection would take half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Keeps what the harness caches out of the user's own cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture
def context(tmp_path):
    """A context with an empty results folder, in one process, on the CPU."""
    from harness.core.artifacts import ArtifactStore
    from harness.core.stages import Context
    from harness.core.storage import Storage

    store = ArtifactStore(Storage(str(tmp_path / "results")))
    return Context(store, {"run": "test-run"}, ray=False, accelerators=False)
