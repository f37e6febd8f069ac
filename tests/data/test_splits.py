"""The names of splits."""

import pytest

from harness.data.splits import KEYWORDS, is_split, split_of

WORDS = [(split, word) for split, words in KEYWORDS.items() for word in words]


@pytest.mark.parametrize(("split", "word"), WORDS)
def test_each_word_is_its_split_in_any_case(split, word):
    for name in (word, word.upper(), f" {word.capitalize()} ", f"seg_{word}", f"{word}2017"):
        assert split_of(name) == split
        assert is_split(name)


@pytest.mark.parametrize(("split", "word"), WORDS)
def test_a_split_is_found_as_a_word_of_a_name_but_the_name_is_not_that_of_a_split(split, word):
    for name in (f"{word}-00000-of-00002", f"pets_{word}", f"my.{word}_images", f"{word} tube"):
        assert split_of(name) == split
        assert not is_split(name)


@pytest.mark.parametrize(
    "name", ["testament", "valuable", "trainer", "device", "evaluate", "contest", "0000", "", "cats"]
)
def test_words_that_only_contain_one_are_no_splits(name):
    assert split_of(name) is None
    assert not is_split(name)


def test_the_first_word_counts():
    assert split_of("train_of_the_test") == "train"
    assert split_of("test-train") == "test"
