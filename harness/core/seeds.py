"""Named streams of random numbers: every draw belongs to a stream, which depends on the seed and its name alone."""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: object) -> int:
    """Returns a 64-bit seed for the stream `names` of the experiment's `seed`."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rng(seed: int, *names: object) -> np.random.Generator:
    """Returns a NumPy generator for the stream `names` of the experiment's `seed`."""
    return np.random.Generator(np.random.Philox(derive_seed(seed, *names)))
