"""Checks that several contract suites share: the global random state, serialisation to workers, arrays."""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.core.artifacts import ArtifactStore
from harness.core.config import Config, part_of
from harness.core.registry import GROUP, Registry
from harness.core.stages import Context
from harness.core.storage import Storage

STATES = ("torch", "numpy.random", "random")


def context_in(folder: Path) -> Context:
    """Returns a context with an empty results folder in `folder`: one process, on the CPU."""
    store = ArtifactStore(Storage(str(folder / "results")))
    return Context(store, {"run": "test-run"}, ray=False, accelerators=False)


def seed_everything(seed: int) -> None:
    """Seeds the global random state of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def random_state_left_alone(what: str) -> Iterator[None]:
    """Fails if the global random state of torch, NumPy or Python changes; `what` is the subject of the message."""
    before = _states()
    yield
    changed = [name for name, old, new in zip(STATES, before, _states(), strict=True) if old != new]
    assert not changed, (
        f"{what} must not use global random state, but changed that of {', '.join(changed)}; draw from a "
        "generator made from the given seed, or inside torch.random.fork_rng()"
    )


def _states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state()
    numpy_state = (kind, np.asarray(keys).tobytes(), *rest)
    return torch.random.get_rng_state().numpy().tobytes(), numpy_state, random.getstate()


def assert_registered(registry: Registry, part: Config) -> None:
    """Fails unless `registry` finds the part's class by the value of its field `name`."""
    kind, name = registry.kind, getattr(part, "name", None)
    default = type(part).model_fields["name"].default if "name" in type(part).model_fields else None
    assert default == name, (
        f"a {kind} must have a field `name` whose default is its registered name, not {default!r}"
    )
    assert name in registry.names(), (
        f"{kind} {name!r} is not registered; add the entry point {registry.prefix}{name} to the group {GROUP}"
    )
    assert registry.load(name) is type(part), (
        f"{kind} {name!r} is registered as {registry.where(name)}, which is not {type(part).__name__}"
    )


def assert_can_be_sent_to_a_worker(registry: Registry, part: Config) -> None:
    """Fails unless `keyed()` is JSON from which a worker can make the same part."""
    values = part.keyed()
    travelled = json.loads(json.dumps(values, allow_nan=False))
    assert travelled == values, (
        "keyed() must be JSON-like: string keys, lists instead of tuples, plain numbers"
    )
    again = part_of(registry, travelled)
    assert again.keyed() == values, "the part made from keyed() must return the same keyed()"


def assert_unchanged(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], what: str) -> None:
    """Fails if an array differs from its copy; `what` is the subject of the message."""
    for name, array in before.items():
        assert np.array_equal(array, after[name], equal_nan=True), (
            f"{what} must not change its inputs: {name}"
        )
