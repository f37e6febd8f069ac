"""Makes `python -m harness.sweep` the command `harness sweep`."""

import sys

from harness.cli import main

sys.exit(main(["sweep", *sys.argv[1:]]))
