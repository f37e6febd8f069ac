"""Interrupts: the first stops the sweep cleanly, the second immediately."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from harness.core.errors import Terminated

SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises `KeyboardInterrupt` at the first Ctrl-C, or `Terminated` at SIGTERM; a second one exits the process.

    Recorded rows are on disk already or, for an object store, are written first thing after the first interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if asked:
            os.write(2, b"\nharness: stopped; recorded results are kept; run the same command to resume\n")
            os._exit(128 + number)
        asked.append(number)
        print("harness: stopping; interrupt again to stop immediately", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:  # Ray raises its own, which lacks the kind
        raise SIGNALS[signal.Signals(asked[0])] if asked else KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
