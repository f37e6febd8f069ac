"""How images are divided into training, validation and test: the source's own splits, or stratified draws."""

from collections.abc import Mapping

import numpy as np

from harness.core.errors import UserError
from harness.core.seeds import rng
from harness.data.config import DataConfig
from harness.data.label_arrays import is_labelled, strata
from harness.data.splits import SPLITS


def split(given_N: np.ndarray, labels_N: np.ndarray, config: DataConfig, seed: int) -> dict[str, np.ndarray]:
    """Returns indices for "train", "validation" and "test", in random order given the seed.

    `given_N` are the source's splits, as places in `SPLITS`; images without one (-1) are training images. A missing
    split is drawn from the labelled training images, each class in proportion; of multi-label data, images by the
    rarest of their classes. Images without a label (-1) train, unless no image has one. Raises `UserError` if a split
    stays empty.
    """
    order = rng(seed, "split").permutation(len(given_N))
    tested_N = can_be_tested(labels_N)
    place_N = np.where((given_N < 0) | ~tested_N, 0, given_N)[order]
    found = {name: order[place_N == number] for number, name in enumerate(SPLITS)}
    missing = [name for name in ("test", "validation") if not len(found[name])]
    total = int(tested_N.sum())
    for name in missing:
        pool = stratified(found["train"], labels_N)
        found[name] = pool[tested_N[pool]][: round(getattr(config, name) * total)]
        found["train"] = pool[~np.isin(pool, found[name], assume_unique=True)]
    if config.subset is not None:
        found = {name: _share(stratified(places, labels_N), config.subset) for name, places in found.items()}
    limits = {"train": config.max_train, "validation": config.max_validation, "test": config.max_test}
    found = {name: chosen[: limits[name]] for name, chosen in found.items()}
    _refuse_empty(found, config, len(given_N))
    return found


def can_be_tested(labels_N: np.ndarray) -> np.ndarray:
    """Returns which images may be validation or test images: those with a label, or all if none has one."""
    labelled_N = is_labelled(labels_N)
    return labelled_N if labelled_N.any() else ~labelled_N


def _share(places: np.ndarray, share: float) -> np.ndarray:
    return places[: max(1, round(share * len(places)))]


def _refuse_empty(found: Mapping[str, np.ndarray], config: DataConfig, total: int) -> None:
    for name, chosen in found.items():
        if not len(chosen):
            raise UserError(
                f"data set {config.name!r}: no images left for {name}: it has {total} images, "
                f"data.validation = {config.validation} and data.test = {config.test}"
            )


def stratified(places: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Returns indices, given in random order, so that every beginning holds each class in proportion.

    Of multi-label data, each stratum of `strata`: the images with the same rarest class.
    The k-th of a class's n images comes where the share (k - 1/2) / n of all is reached; its last is never among the
    first of a draw of less than 1 - 1 / (2 n).
    """
    labels = strata(labels_N)[places]
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.empty(len(places))
    rank[by_class] = np.arange(len(places)) - np.repeat(starts, counts)
    size = np.empty(len(places))
    size[by_class] = np.repeat(counts, counts)
    return places[np.argsort((rank + 0.5) / size, kind="stable")]
