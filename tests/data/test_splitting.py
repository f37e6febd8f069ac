"""How images are divided: the source's own splits, and draws with each class in proportion."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.splits import SPLITS
from harness.data.splitting import split, stratified

NONE = -1  # no split, or no label
LIMITS = st.none() | st.integers(1, 50)
CONFIGS = st.builds(
    DataConfig,
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    max_train=LIMITS,
    max_validation=LIMITS,
    max_test=LIMITS,
    subset=st.none() | st.floats(0.1, 1),
)


def given_as(**counts):
    """Returns the source's splits, as places in `SPLITS`, of this many images of each."""
    return np.repeat(
        [SPLITS.index(name) if name in SPLITS else NONE for name in counts], list(counts.values())
    )


def sizes(found):
    return {name: len(chosen) for name, chosen in found.items()}


@given(
    CONFIGS,
    st.lists(
        st.tuples(st.sampled_from([NONE, 0, 1, 2]), st.sampled_from([NONE, 0, 1, 2])),
        min_size=60,
        max_size=90,
    ),
    st.integers(0, 9),
)
def test_splits_are_disjoint_complete_and_keep_what_the_source_says(config, images, seed):
    given_N, labels_N = np.array(images).T
    labelled_N = labels_N >= 0
    assume(labelled_N.sum() >= 40)
    found = split(given_N, labels_N, config, seed)
    together = np.concatenate(list(found.values()))
    assert len(set(together.tolist())) == len(together)
    everything = {"max_train": None, "max_validation": None, "max_test": None, "subset": None}
    whole = split(given_N, labels_N, config.model_copy(update=everything), seed)
    assert sorted(np.concatenate(list(whole.values())).tolist()) == list(range(len(images)))
    for place, name in enumerate(SPLITS):
        assert set(found[name].tolist()) <= set(whole[name].tolist())
        assert len(found[name]) >= 1
        limit = getattr(config, f"max_{name}")
        share = max(1, round((config.subset or 1) * len(whole[name])))
        assert len(found[name]) == min(limit or len(images), share)
        if place == 0:
            continue
        assert labelled_N[whole[name]].all(), "images without a label train"
        own = set(np.flatnonzero((given_N == place) & labelled_N).tolist())
        if own:
            assert set(whole[name].tolist()) == own
        else:
            assert len(whole[name]) == round(getattr(config, name) * labelled_N.sum())
            assert (given_N[whole[name]] <= 0).all(), "drawn from training images alone"


@given(st.lists(st.integers(NONE, 4), min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_each_beginning_of_a_stratified_order_holds_each_class_in_proportion(labels, random):
    labels_N = np.array(labels)
    places = np.arange(len(labels_N))
    random.shuffle(places)
    found = stratified(places, labels_N)
    assert sorted(found.tolist()) == sorted(places.tolist())
    for label in np.unique(labels_N):
        of_class = labels_N[found] == label
        shares = np.arange(1, len(found) + 1) * of_class.sum() / len(found)
        assert np.abs(np.cumsum(of_class) - shares).max() <= 1
        np.testing.assert_array_equal(found[of_class], places[labels_N[places] == label])


@given(st.lists(st.integers(2, 12), min_size=2, max_size=6), st.integers(0, 3))
def test_a_class_that_is_tested_has_training_images_too(counts, seed):
    labels_N = np.repeat(np.arange(len(counts)), counts)
    assume(len(labels_N) >= 8)
    found = split(np.full(len(labels_N), NONE), labels_N, DataConfig(), seed)
    tested = set(labels_N[np.concatenate([found["validation"], found["test"]])].tolist())
    enough = {label for label, count in enumerate(counts) if count >= 4}
    assert tested & enough <= set(labels_N[found["train"]].tolist())


def test_draws_follow_from_the_seed_and_differ_between_seeds():
    given_N, labels_N = given_as(unnamed=100), np.arange(100) % 4
    one, same, other = (split(given_N, labels_N, DataConfig(), seed) for seed in (0, 0, 1))
    for name in SPLITS:
        np.testing.assert_array_equal(one[name], same[name])
        assert set(one[name].tolist()) != set(other[name].tolist())


def test_a_missing_validation_split_is_drawn_from_training_images_never_from_test():
    found = split(given_as(train=80, test=20), np.zeros(100, int), DataConfig(validation=0.1), 0)
    assert sizes(found) == {"train": 70, "validation": 10, "test": 20}
    assert set(found["test"].tolist()) == set(range(80, 100))


def test_a_source_without_splits_gets_all_three():
    found = split(given_as(unnamed=100), np.zeros(100, int), DataConfig(validation=0.2, test=0.3), 0)
    assert sizes(found) == {"train": 50, "validation": 20, "test": 30}


def test_without_any_label_all_images_may_be_tested():
    labels_N = np.full(100, NONE)
    found = split(given_as(unnamed=100), labels_N, DataConfig(), 0)
    assert sizes(found) == {"train": 50, "validation": 20, "test": 30}
    found = split(given_as(train=80, test=20), labels_N, DataConfig(validation=0.1), 0)
    assert set(found["test"].tolist()) == set(range(80, 100))


def test_rare_classes_are_in_each_split_they_are_large_enough_for():
    labels_N = np.repeat([0, 1], [90, 10])
    found = split(given_as(unnamed=100), labels_N, DataConfig(validation=0.2, test=0.3), 3)
    assert {name: (labels_N[chosen] == 1).sum() for name, chosen in found.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
    }


def test_too_few_images_for_a_split_are_refused():
    with pytest.raises(UserError, match="no images left for validation: it has 2 images"):
        split(given_as(unnamed=2), np.zeros(2, int), DataConfig(), 0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(UserError, match="no images left for train"):
        split(given_as(unnamed=100), np.zeros(100, int), DataConfig(validation=0.5, test=0.5), 0)
