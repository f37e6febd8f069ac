"""What makes accuracies on a data set mean less than they seem to: found when it is read, said in plan and page."""

from collections.abc import Mapping, Sequence

import numpy as np

from harness.data.label_arrays import class_counts, is_labelled, is_multilabel

FEW = 30  # images of a split below which an accuracy says little


def traps(
    digests_ND: np.ndarray, labels_N: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]
) -> list[str]:
    """Returns one sentence per trap, for digests of the encoded images and the indices of the splits."""
    if is_multilabel(labels_N):
        return [
            *copies(digests_ND, splits, measure(labels_N)),
            *_unranked(labels_N, classes, splits),
            *_one_label_each(labels_N),
            *_few_to_rank(splits),
        ]
    return [
        *copies(digests_ND, splits, measure(labels_N)),
        *_unlearnt(labels_N, classes, splits),
        *_of_one_class(labels_N, classes, splits),
        *_few(splits),
    ]


def measure(labels: np.ndarray) -> str:
    """Returns what heads are judged by on such labels."""
    return "mAP" if is_multilabel(labels) else "accuracy"


def copies(
    digests_ND: np.ndarray, splits: Mapping[str, np.ndarray], judged_by: str, what: str = "exact copies"
) -> list[str]:
    """Returns a sentence for validation and test if any of their images (uint8 digests) is also a training image."""
    digests_N = np.ascontiguousarray(digests_ND).view(f"V{digests_ND.shape[1]}").reshape(-1)
    found = []
    for name in ("validation", "test"):
        count = int(np.isin(digests_N[splits[name]], digests_N[splits["train"]]).sum())
        if count:
            found.append(
                f"{count} of {len(splits[name])} {name} images are {what} of training images: {name} {judged_by} "
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


def _unranked(labels_NK: np.ndarray, classes: Sequence[str], splits: Mapping[str, np.ndarray]) -> list[str]:
    """Says which classes of multi-label data cannot be learnt or measured, as no images are of them or all are."""
    found = []
    for name, places in splits.items():
        here = labels_NK[places][is_labelled(labels_NK[places])]
        counts = class_counts(here, len(classes))
        effect = "cannot be learnt" if name == "train" else f"left out of the {name} mAP"
        for count, which, then in (
            (0, "no", effect),
            (len(here), "only", "cannot be learnt" if name == "train" else "ranked perfectly by any answer"),
        ):
            alike = np.flatnonzero(counts == count)
            if len(here) and len(alike):
                names = ", ".join(repr(classes[one]) for one in alike[:3]) + (
                    ", ..." if len(alike) > 3 else ""
                )
                found.append(
                    f"{len(alike)} of {len(classes)} classes have {which} {name} images ({names}): {then}"
                )
    return found


def _one_label_each(labels_NK: np.ndarray) -> list[str]:
    each_N = (labels_NK[is_labelled(labels_NK)] == 1).sum(1)
    if labels_NK.shape[1] < 2 or not (each_N == 1).all():
        return []
    return [
        "every image has exactly one label: with class numbers instead of lists, heads are judged by accuracy"
    ]


def _few_to_rank(splits: Mapping[str, np.ndarray]) -> list[str]:
    return [
        f"{name} has {len(splits[name])} images only: its mAP says little"
        for name in ("validation", "test")
        if 0 < len(splits[name]) < FEW
    ]
