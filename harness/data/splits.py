"""The names of splits, the same for every source: a folder, a file, a split of the Hub."""

import re

SPLITS = ("train", "validation", "test")
NAMES = {
    "train": ("train", "training", "trainset", "seg_train"),
    "validation": ("validation", "valid", "val", "dev", "eval", "seg_val", "seg_valid"),
    "test": ("test", "testing", "testset", "seg_test"),
}
BY_NAME = {name: split for split, names in NAMES.items() for name in names}
_LEADING = re.compile(rf"({'|'.join(sorted(BY_NAME, key=len, reverse=True))})(?![a-z])")


def split_of(name: str) -> str | None:
    """Returns the split that a name is: "train" of "Training"; None for any other name."""
    return BY_NAME.get(name.strip().lower().replace("-", "_"))


def split_at_start(name: str) -> str | None:
    """Returns the split that a file's name begins with: "test" of "test-00000-of-00002"; None for "testament"."""
    found = _LEADING.match(name.lower().replace("-", "_"))
    return BY_NAME[found[1]] if found else None
