"""What makes accuracies on a data set mean less than they seem to: found when it is read, said in plan and page."""

from collections.abc import Mapping, Sequence

import numpy as np

FEW = 30  # images of a split below which an accuracy says little


def traps(
    digests_ND: np.ndarray, labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]
) -> list[str]:
    """Returns one sentence per trap, for digests of the encoded images and the indices of the splits."""
    return [
        *copies(digests_ND, splits),
        *_unlearnt(labels_N, classes, splits),
        *_of_one_class(labels_N, classes, splits),
        *_few(splits),
    ]


def copies(digests_ND: np.ndarray, splits: Mapping[str, np.ndarray], what: str = "exact copies") -> list[str]:
    """Returns a sentence for validation and test if any of their images (uint8 digests) is also a training image."""
    digests_N = np.ascontiguousarray(digests_ND).view(f"V{digests_ND.shape[1]}").reshape(-1)
    found = []
    for name in ("validation", "test"):
        count = int(np.isin(digests_N[splits[name]], digests_N[splits["train"]]).sum())
        if count:
            found.append(
                f"{count} of {len(splits[name])} {name} images are {what} of training images: {name} accuracy "
                "rewards remembering them"
            )
    return found


def _unlearnt(labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    without = sorted(set(range(len(classes))) - set(labels_N[splits["train"]].tolist()))
    if not without:
        return []
    tested = set(np.concatenate([labels_N[splits[name]] for name in ("validation", "test")]).tolist())
    names = ", ".join(repr(classes[number]) for number in without[:3]) + (", ..." if without[3:] else "")
    wrong = f"; {len(tested & set(without))} of them are tested" if tested & set(without) else ""
    return [
        f"{len(without)} of {len(classes)} classes have no training images ({names}): none can be predicted{wrong}"
    ]


def _of_one_class(
    labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]
) -> list[str]:
    return [
        f"all {len(places)} {name} images are of one class ({classes[labels_N[places[0]]]!r}): a constant answer is "
        "right"
        for name, places in splits.items()
        if len(classes) > 1
        and len(places)
        and len(set(labels_N[places].tolist())) == 1
        and labels_N[places[0]] >= 0
    ]


def _few(splits: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"{name} has {len(splits[name])} images only: its accuracy moves in steps of {100 / len(splits[name]):.0f} %"
        for name in ("validation", "test")
        if 0 < len(splits[name]) < FEW
    ]
