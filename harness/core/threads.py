"""One thread for what stages and trials compute, so that no number depends on how many cores a machine has.

Sums in another order differ in their last digits, and training amplifies that. A sweep uses its cores by running
several tasks at once. Small work is also faster so: the pools of BLAS and of torch compete for the same cores.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits the thread pools of the libraries loaded so far to one thread, in the calling process."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    with threadpool_limits(1):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)
