"""The library `datasets`, opened so that it shows and sends nothing of its own."""

import logging
from functools import lru_cache
from types import ModuleType


@lru_cache(1)
def datasets() -> ModuleType:
    """Returns the module, without its progress bars and log lines."""
    import datasets as library

    library.disable_progress_bars()
    library.utils.logging.set_verbosity(logging.CRITICAL)  # its errors are raised as well
    return library
