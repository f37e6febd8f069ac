"""What makes accuracies on a data set mean less than they seem to: found when it is read, said in plan and page."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

FEW = 30  # images of a split below which an accuracy says little


def traps(
    images_NCHW: np.ndarray, labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]
) -> list[str]:
    """Returns one sentence per trap, for images (uint8) and the indices of "train", "validation" and "test"."""
    return [
        *_copies(images_NCHW, splits),
        *_unlearnt(labels_N, classes, splits),
        *_of_one_class(labels_N, classes, splits),
        *_few(splits),
    ]


def _copies(images_NCHW: np.ndarray, splits: Mapping[str, np.ndarray]) -> list[str]:
    known = {name: [_digest(images_NCHW[place]) for place in places] for name, places in splits.items()}
    train, found = set(known["train"]), []
    for name in ("validation", "test"):
        copies = sum(digest in train for digest in known[name])
        if copies:
            found.append(
                f"{copies} of {len(known[name])} {name} images are exact copies of training images: {name} accuracy "
                "rewards remembering them"
            )
    return found


def _digest(image_CHW: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image_CHW).tobytes(), digest_size=16).digest()


def _unlearnt(labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    without = sorted(set(range(len(classes))) - set(labels_N[splits["train"]].tolist()))
    if not without:
        return []
    names = ", ".join(repr(classes[number]) for number in without[:3]) + (", ..." if without[3:] else "")
    return [
        f"{len(without)} of {len(classes)} classes have no training images ({names}): none can be predicted"
    ]


def _of_one_class(
    labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]
) -> list[str]:
    return [
        f"all {len(places)} {name} images are of one class ({classes[labels_N[places[0]]]!r}): a constant answer is "
        "right"
        for name, places in splits.items()
        if len(classes) > 1 and len(places) and len(set(labels_N[places].tolist())) == 1
    ]


def _few(splits: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"{name} has {len(splits[name])} images only: its accuracy moves in steps of {100 / len(splits[name]):.0f} %"
        for name in ("validation", "test")
        if 0 < len(splits[name]) < FEW
    ]
