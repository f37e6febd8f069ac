"""Interrupts: the first stops the sweep cleanly, the second stops it now."""

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
    """Raises `KeyboardInterrupt` at the first Ctrl-C, or `Terminated` at SIGTERM; a second one ends the process.

    What is recorded is on disk already, or, on an object store, written first thing after the first interrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if asked:
            os.write(2, b"\nharness: stopped now; what was recorded is kept, the same command continues\n")
            os._exit(128 + number)
        asked.append(number)
        print("harness: stopping; once more to stop at once", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:  # which Ray raises anew, without the kind
        raise SIGNALS[signal.Signals(asked[0])] if asked else KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
