"""The names of splits, the same for every source: a folder, a file, a split of the Hub."""

import re

SPLITS = ("train", "validation", "test")
# Those of the library `datasets`, which people know, and three more.
KEYWORDS = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "dev", "val", "valset"),
    "test": ("test", "testing", "eval", "evaluation", "testset"),
}
BY_KEYWORD = {word: split for split, words in KEYWORDS.items() for word in words}
_APART = "[-._ 0-9]"  # what separates a keyword from the rest of a name
_WORD = re.compile(rf"(?:^|{_APART})({'|'.join(sorted(BY_KEYWORD, key=len, reverse=True))})(?={_APART}|$)")
_PLAIN = re.compile(rf"(?:seg{_APART})?({'|'.join(BY_KEYWORD)}){_APART}*")


def split_of(name: str) -> str | None:
    """Returns the split that a name contains as a word, as "seg_train" and "Train-00000" do; None if it has none."""
    found = _WORD.search(name.strip().lower())
    return BY_KEYWORD[found[1]] if found else None


def is_split(name: str) -> bool:
    """Returns whether a name is that of a split and nothing else: "val2017", but not "test_tube"."""
    return _PLAIN.fullmatch(name.strip().lower()) is not None
