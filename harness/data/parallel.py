"""Work on many files in several processes, where there is enough of it to be worth starting them."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")
FEWEST = 64  # calls below which no processes are started


def in_parallel(function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Returns `function(*call)` of every call, in order; of many calls in as many processes as there are cores."""
    return list(one_by_one(function, calls))


def one_by_one(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], fewest: int = FEWEST
) -> Iterator[Result]:
    """Yields what `in_parallel` returns as soon as it is there, in order; raises the error of the first to fail."""
    processes = min(os.cpu_count() or 1, len(calls))
    if len(calls) < fewest or processes < 2:
        for call in calls:
            yield function(*call)
        return
    from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

    yield from get_reusable_executor(processes).map(function, *zip(*calls, strict=True))
