"""The contract of a head: `harness.features.heads.head.Head`, whose `fit` says what a head must handle.

Subclass `HeadContract` and define the fixture `head`: a registered head with options small enough for a test, which
can learn well-separated blobs from 150 samples.
"""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.datasets import make_blobs

from harness.features import lazy
from harness.features.heads.by_gradients import ByGradients
from harness.features.heads.head import HEADS, Fitted, Head, Labelled, head_of
from harness.metrics.ranking import mean_average_precision
from harness.testing.checks import (
    assert_can_be_sent_to_a_worker,
    assert_registered,
    assert_unchanged,
    random_state_left_alone,
    seed_everything,
)

SHAPES = [(6,), (3, 1, 1), (4, 5, 5)]  # of features: a vector, a map of one pixel, a map


def blobs(classes: int = 4, width: int = 6, n: int = 300) -> tuple[Labelled, Labelled]:
    """Returns training and validation features [n / 2, width] that are easy to classify."""
    x, y = make_blobs(n, width, centers=classes, cluster_std=1.0, random_state=0)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return Labelled(x[: n // 2], y[: n // 2]), Labelled(x[n // 2 :], y[n // 2 :])


def tagged(n: int = 400) -> tuple[Labelled, Labelled]:
    """Returns training and validation features [n / 2, 6] of samples that are of several of four classes, or none.

    Each class is a direction in the features; the last class has no sample, and one has most of them.
    """
    draw = np.random.default_rng(0)
    labels = (draw.random((n, 4)) < (0.25, 0.4, 0.7, 0.0)).astype(np.int8)
    directions = np.linalg.qr(draw.normal(size=(6, 6)))[0][:4]
    x = ((2.0 * labels - 1) @ directions * 2 + 0.5 * draw.normal(size=(n, 6))).astype(np.float32)
    return Labelled(x[: n // 2], labels[: n // 2]), Labelled(x[n // 2 :], labels[n // 2 :])


def maps(shape: tuple[int, ...], classes: int = 3, n: int = 60) -> tuple[Labelled, Labelled]:
    """Returns training and validation features [n / 2, *shape] whose classes differ in the mean of every number."""
    draw = np.random.default_rng(0)
    centre = 2 * draw.normal(size=(classes, *shape))
    labels = np.arange(n) % classes
    x = (centre[labels] + draw.normal(size=(n, *shape))).astype(np.float32)
    return Labelled(x[: n // 2], labels[: n // 2]), Labelled(x[n // 2 :], labels[n // 2 :])


def right(fitted: Fitted, samples: Labelled) -> float:
    """Returns the fraction of samples that are classified correctly."""
    return float(np.mean(fitted.predict(samples.x) == samples.labels_N))


def only(samples: Labelled, chosen_N: np.ndarray) -> Labelled:
    """Returns the chosen samples."""
    return Labelled(samples.x[chosen_N], samples.labels_N[chosen_N])


def watched(samples: Labelled, largest: int) -> Labelled:
    """Returns the samples with features that are read, and that fail if more than `largest` are read at once."""

    def read(rows_B: np.ndarray) -> np.ndarray:
        assert len(rows_B) <= largest, f"{len(rows_B)} samples are read at once, and memory may not hold them"
        return np.asarray(samples.x[rows_B])

    return Labelled(lazy.LazyFeatures(samples.x.shape, read), samples.labels_N)


class HeadContract:
    """What every head must do. A subclass defines the fixture `head`."""

    @pytest.fixture
    def head(self) -> Head:
        """The head to test, with options small enough for a test."""
        raise NotImplementedError("define the fixture `head`, which returns the head to test")

    def test_it_is_registered_and_has_a_version(self, head: Head) -> None:
        assert_registered(HEADS, head)
        assert isinstance(head.version, int), "`version` must be an integer: it is part of result keys"

    def test_its_values_can_be_sent_to_a_worker(self, head: Head) -> None:
        assert_can_be_sent_to_a_worker(HEADS, head)
        assert head_of(json.loads(json.dumps(head.keyed()))) == head, "head_of(keyed()) must be the same head"

    def test_a_label_changes_no_result(self, head: Head) -> None:
        labelled = type(head).model_validate({**head.model_dump(), "label": "my-own_1.0"})
        assert labelled.name == head.name
        assert labelled.display_name == "my-own_1.0", "rows must show the label if there is one"
        assert head.display_name == head.name, "rows must show the name if there is no label"
        assert labelled.keyed() == head.keyed(), "a label must not be part of the key"

    def test_it_learns_what_is_easy(self, head: Head) -> None:
        train, validation = blobs()
        fitted = head.fit(train, validation, 4, 0, "cpu")
        predicted = fitted.predict(validation.x)
        assert predicted.shape == validation.labels_N.shape
        assert predicted.dtype.kind in "iu", "predictions must be class numbers"
        assert set(predicted) <= set(range(4))
        assert right(fitted, validation) > 0.95, "a head must learn well-separated blobs"
        chosen = fitted.regularisation
        assert chosen is None or chosen > 0, "`regularisation` must be the chosen strength or None"

    def test_predictions_are_the_largest_scores(self, head: Head) -> None:
        train, validation = blobs()
        fitted = head.fit(train, validation, 4, 0, "cpu")
        scores = fitted.scores(validation.x)
        assert scores.shape == (len(validation.x), 4), "scores must be [N, classes]"
        assert scores.dtype.kind == "f"
        assert np.isfinite(scores).all(), "scores of finite features must be finite"
        np.testing.assert_array_equal(fitted.predict(validation.x), scores.argmax(1))

    def test_it_is_the_same_every_time(self, head: Head) -> None:
        """Whatever the global random state: all random numbers come from `seed`."""
        train, validation = blobs()
        found = []
        for state in (0, 1):
            seed_everything(state)
            found.append(head.fit(train, validation, 4, 3, "cpu"))
        first, second = found
        np.testing.assert_array_equal(
            first.scores(validation.x),
            second.scores(validation.x),
            "the same seed must give the same head, whatever the global random state",
        )
        assert first.regularisation == second.regularisation

    def test_it_leaves_the_global_random_state_alone(self, head: Head) -> None:
        train, validation = blobs()
        with random_state_left_alone("Head.fit and Fitted.predict"):
            head.fit(train, validation, 4, 0, "cpu").predict(validation.x)

    def test_it_leaves_its_data_alone(self, head: Head) -> None:
        train, validation = blobs()
        given = {"train.x": train.x_ND, "train.labels_N": train.labels_N}
        given |= {"validation.x": validation.x_ND, "validation.labels_N": validation.labels_N}
        before = {name: array.copy() for name, array in given.items()}
        head.fit(train, validation, 4, 0, "cpu").predict(validation.x)
        assert_unchanged(before, given, "Head.fit and Fitted.predict")

    def test_it_predicts_each_sample_by_itself(self, head: Head) -> None:
        train, validation = blobs()
        fitted = head.fit(train, validation, 4, 0, "cpu")
        alone = [int(fitted.predict(x_D[None])[0]) for x_D in validation.x[:40]]
        np.testing.assert_array_equal(
            fitted.predict(validation.x)[:40], alone, "a prediction must not depend on the rest of its batch"
        )

    def test_it_handles_a_class_that_training_lacks(self, head: Head) -> None:
        train, validation = blobs()
        fitted = head.fit(only(train, train.labels_N != 2), validation, 4, 0, "cpu")
        assert fitted.scores(validation.x).shape == (len(validation.x), 4), (
            "a class without training samples must keep its column of scores"
        )
        known = only(validation, validation.labels_N != 2)
        assert right(fitted, known) > 0.7, "a class without training samples must not spoil the others"

    def test_it_handles_a_class_that_validation_lacks(self, head: Head) -> None:
        train, validation = blobs()
        fitted = head.fit(train, only(validation, validation.labels_N != 2), 4, 0, "cpu")
        assert right(fitted, validation) > 0.9, "a class without validation samples must be learnt too"

    def test_it_handles_training_samples_of_one_class_alone(self, head: Head) -> None:
        train, validation = blobs(2, 3, 40)
        fitted = head.fit(only(train, train.labels_N == 1), validation, 2, 0, "cpu")
        assert set(fitted.predict(train.x[train.labels_N == 1])) == {1}, (
            "the only class seen must be predicted"
        )

    def test_it_ranks_samples_by_each_class_if_it_takes_several(self, head: Head) -> None:
        if not head.multilabel:
            pytest.skip("it does not set `multilabel`, so plans refuse it for such data")
        train, validation = tagged()
        fitted = head.fit(train, validation, 4, 0, "cpu")
        scores = fitted.scores(validation.x)
        assert scores.shape == (len(validation.x), 4), (
            "a class without samples must keep its column of scores"
        )
        assert np.isfinite(scores).all()
        found = mean_average_precision(scores, validation.labels_N).value
        assert found > 0.85, (
            f"a head must rank by classes that are easy to tell, not with an mAP of {found:.2f}"
        )
        again = head.fit(train, validation, 4, 0, "cpu")
        np.testing.assert_array_equal(again.scores(validation.x), scores)

    @pytest.mark.parametrize(("width", "n"), [(1, 60), (200, 40)])
    def test_it_takes_one_feature_or_more_than_samples(self, head: Head, width: int, n: int) -> None:
        train, validation = blobs(2, width, n)
        assert right(head.fit(train, validation, 2, 0, "cpu"), validation) > 0.8

    def test_it_handles_two_samples(self, head: Head) -> None:
        train, validation = blobs(2, 3, 4)
        assert head.fit(train, validation, 2, 0, "cpu").predict(validation.x).shape == (2,)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_it_refuses_training_features_that_are_not_finite(self, head: Head, bad: float) -> None:
        train, validation = blobs()
        train.x_ND[3, 2] = bad
        with pytest.raises(FloatingPointError, match=r"not finite|the loss is nan"):
            head.fit(train, validation, 4, 0, "cpu")

    @pytest.mark.parametrize(("shape", "n"), [((6,), 300), ((4, 5, 5), 60)])
    def test_features_that_are_read_in_batches_give_the_same_head(
        self, head: Head, shape: tuple[int, ...], n: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch is made to hold ten samples, so that there are many; n / 2 are more and fewer than the features."""
        if not head.in_batches:
            pytest.skip("it does not set `in_batches`, so it is given arrays")
        monkeypatch.setattr(lazy, "BATCH_NUMBERS", 10 * math.prod(shape))
        largest = max(10, head.train.batch if isinstance(head, ByGradients) else 0)
        train, validation = maps(shape, n=n)
        found = head.fit(train, validation, 3, 0, "cpu")
        read = head.fit(watched(train, largest), watched(validation, largest), 3, 0, "cpu")
        assert read.regularisation == found.regularisation
        for name, value in found.module.state_dict().items():
            same = torch.equal(read.module.state_dict()[name], value)
            assert same, f"{name} must be the same whether features are in memory or read in batches"
        scores = read.scores(watched(validation, largest).x)
        np.testing.assert_array_equal(scores, found.scores(validation.x))

    @pytest.mark.parametrize("shape", SHAPES)
    def test_its_weights_can_be_saved_and_loaded_again(self, head: Head, shape: tuple[int, ...]) -> None:
        train, validation = maps(shape)
        fitted = head.fit(train, validation, 3, 0, "cpu")
        scores = fitted.scores(validation.x)
        assert scores.shape == (30, 3)
        again = head.module(shape, 3)
        again.load_state_dict(load(save(fitted.module.state_dict())))
        np.testing.assert_array_equal(
            fitted._replace(module=again.eval()).scores(validation.x),
            scores,
            "Head.module with the state dict of the fitted module must give the same scores",
        )
        assert right(fitted, validation) > 0.8

    def test_heads_of_other_shapes_refuse_each_others_weights(self, head: Head) -> None:
        train, validation = maps((4, 5, 5))
        fitted = head.fit(train, validation, 3, 0, "cpu")
        with pytest.raises(RuntimeError, match="size mismatch"):
            head.module((5, 5, 5), 3).load_state_dict(fitted.module.state_dict())

    def test_what_is_trained_by_steps_gives_all_its_parameters_a_gradient(self, head: Head) -> None:
        if not head.trained_by_steps:
            pytest.skip("solved, not trained by steps")
        module = head.module((4, 3, 3), 3)
        draw = torch.Generator().manual_seed(0)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=draw)
        x = torch.randn(8, 4, 3, 3, generator=draw)
        torch.nn.functional.cross_entropy(module(x), torch.arange(8) % 3).backward()
        idle = [
            name
            for name, one in module.named_parameters()
            if one.grad is None or not float(one.grad.abs().sum())
        ]
        assert not idle, f"parameters that no gradient reaches: {', '.join(idle)}"
