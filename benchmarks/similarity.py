"""How much faster is the similarity of all pairs of networks by one matrix product than by the published loop?

    python benchmarks/similarity.py      # 1400 networks, 10,000 images: about a minute

Prints seconds, the ratio, and the largest difference.
"""

import argparse
import time

import numpy as np

from harness.metrics.similarity import error_iou


def double_loop(wrong_AN: np.ndarray) -> np.ndarray:
    """Returns |Wa & Wb| / |Wa | Wb| pair by pair; 0/0 is 1."""
    count = len(wrong_AN)
    found_AA = np.empty((count, count))
    for a in range(count):
        for b in range(count):
            either = np.logical_or(wrong_AN[a], wrong_AN[b]).sum()
            both = np.logical_and(wrong_AN[a], wrong_AN[b]).sum()
            found_AA[a, b] = both / either if either else 1.0
    return found_AA


def main() -> None:
    """Prints one line per method, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=1400)
    parser.add_argument("--images", type=int, default=10_000)
    chosen = parser.parse_args()
    draw = np.random.default_rng(0)
    hard_N = draw.random(chosen.images)
    wrong_AN = draw.random((chosen.networks, chosen.images)) < 0.5 * hard_N
    took, found = {}, {}
    for name, way in (
        ("harness", lambda: error_iou(wrong_AN, wrong_AN)),
        ("published", lambda: double_loop(wrong_AN)),
    ):
        began = time.perf_counter()
        found[name] = way()
        took[name] = time.perf_counter() - began
        print(f"{name:10} {took[name]:8.2f} s")
    gap = float(np.abs(found["published"] - found["harness"]).max())
    print(f"{took['published'] / took['harness']:.0f} times faster, largest difference {gap:.1e}")


if __name__ == "__main__":
    main()
