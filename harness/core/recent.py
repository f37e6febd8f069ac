"""A cache of what was opened last, for the next trial or shard of the same process."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the last `most` values opened; the oldest is dropped before another is opened, to save memory."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._values: dict[Hashable, Value] = {}

    def get(self, key: Hashable, open_value: Callable[[], Value]) -> Value:
        """Returns the cached value of `key`, or opens it."""
        if key not in self._values:
            while len(self._values) >= self._most:
                del self._values[next(iter(self._values))]
            self._values[key] = open_value()
        return self._values[key]
