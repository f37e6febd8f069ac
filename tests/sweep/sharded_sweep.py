"""`harness.sweep` with shards of two images, so that a small folder has many: sharded_sweep.py EXPERIMENT ..."""

import sys

from harness.cli import main
from harness.data import shards

shards.SHARD_BYTES = 2 * 3 * 16 * 16

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
