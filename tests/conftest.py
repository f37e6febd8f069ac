"""What all tests share: an empty context, and hypothesis without clocks or a database."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the networks here are too small to share out

settings.register_profile("harness", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("harness")


@pytest.fixture
def context(tmp_path):
    """A context with an empty results folder, in one process, on the CPU."""
    from harness.core.artifacts import ArtifactStore
    from harness.core.stages import Context
    from harness.core.storage import Storage

    store = ArtifactStore(Storage(str(tmp_path / "results")))
    return Context(store, {"run": "test-run"}, ray=False, accelerators=False)
