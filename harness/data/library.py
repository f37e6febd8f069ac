"""The library `datasets`, opened so that it shows and sends nothing of its own."""

import logging
from functools import lru_cache
from types import ModuleType


@lru_cache(1)
def datasets() -> ModuleType:
    """Returns the module, without its progress bars, its log lines and its count of what is loaded by whom."""
    import datasets as library

    library.disable_progress_bars()
    library.utils.logging.set_verbosity(logging.CRITICAL)  # its errors are raised as well
    library.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else a request to the Hub for every local file
    return library
