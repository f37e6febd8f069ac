"""What `tests/core` asks of any storage, asked of S3: the same tests with another fixture."""

import sys
from pathlib import Path

import pytest

from harness.core import row_store
from harness.core.artifacts import ArtifactStore

pytestmark = pytest.mark.slow

sys.path.append(str(Path(__file__).parents[1] / "core"))
for module in ("test_storage", "test_artifacts", "test_row_store"):
    for name, test in vars(__import__(module)).items():
        used = getattr(getattr(test, "__code__", None), "co_varnames", ())
        if name.startswith("test_") and {"storage", "store"} & set(used[: test.__code__.co_argcount]):
            globals()[name] = test


@pytest.fixture(autouse=True)
def _short_sequences(monkeypatch):
    """Files of a counted sequence are asked for in smaller groups: a test's server answers a hundred in a second."""
    monkeypatch.setattr(row_store, "AT_ONCE", 8)


@pytest.fixture
def store(storage):
    """An empty store of artifacts."""
    return ArtifactStore(storage)
