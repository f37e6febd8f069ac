"""What tells trials apart, and means over their runs."""

import numpy as np
import pandas as pd
import pytest

from harness.metrics.inference import student_interval
from harness.report.setups import in_order, measured, noise_cases, telling, unsaid


def rows(values: list[float], seeds: list[int]) -> pd.DataFrame:
    ends = {"x_accuracy_low": 0.1, "x_accuracy_high": 0.9}
    return pd.DataFrame({"x_accuracy": values, "seed": seeds}).assign(**ends)


def test_one_run_keeps_its_own_interval() -> None:
    assert measured(rows([0.5], [0]), "x_accuracy") == (0.5, 0.1, 0.9, 1)
    assert measured(rows([0.5, 0.5], [0, 0]), "x_accuracy") == (0.5, 0.1, 0.9, 2)
    assert measured(rows([np.nan], [0]), "x_accuracy") == (None, None, None, 0)


def test_runs_are_averaged_over_seeds_where_there_are_several() -> None:
    found = measured(rows([0.4, 0.6, 0.7, 0.7], [0, 0, 1, 1]), "x_accuracy")
    assert (found.value, found.runs) == (pytest.approx(0.6), 4)
    low, _ = student_interval([0.5, 0.7])
    assert low is not None
    assert low < 0 == found.low  # an accuracy is not below 0
    alone = measured(rows([0.5, 0.51, 0.52], [3, 3, 3]), "x_accuracy")
    assert (alone.low, alone.high) == pytest.approx(student_interval([0.5, 0.51, 0.52]))


def test_noise_is_one_of_four_cases_unless_scales_differ() -> None:
    four = noise_cases(pd.Series([0, 0.001, 0, 0.001, None]), pd.Series([0, 0, 0.1, 0.1, 0.1]))
    assert four.tolist() == ["none", "parameters", "latents", "both", None]
    scales = noise_cases(pd.Series([0.0, 0.1, 0.2]), pd.Series([0.3, 0.3, 0.3]))
    assert scales.tolist() == ["latents", "both (0.1 and 0.3)", "both (0.2 and 0.3)"]


def test_what_has_a_column_of_its_own_is_not_said_again() -> None:
    assert (
        unsaid('{"autoencoder.latent_noise": 0, "autoencoder.train.steps": 50}')
        == "autoencoder.train.steps = 50"
    )
    assert unsaid('{"sampler": "ddim", "train": {"a": 1, "b": 2}}') == 'train = {"a": 1, "b": 2}'
    assert unsaid('{"parameters": ["conv1", "fc"]}') is None
    assert unsaid(None) is None


def test_noise_and_locations_stand_in_an_order_that_means_something() -> None:
    frame = pd.DataFrame(
        {
            "parameters": ["all", "conv1", "all", "conv1", None],
            "parameter_count": [3778, 72, 3778, 72, None],
            "noise": ["none", "both", "latents", "parameters", "none"],
        }
    )
    assert in_order(frame, ["noise"])["noise"].tolist() == ["none", "none", "parameters", "latents", "both"]
    assert in_order(frame, ["parameters", "noise"]).index.tolist() == [3, 1, 0, 2, 4]


def test_columns_that_follow_from_others_tell_nothing() -> None:
    frame = pd.DataFrame(
        {
            "data": ["a", "a", "b", "b"],
            "network": ["x", "x", "y", "y"],
            "preset": ["p", "q", "p", "q"],
            "optimizer": ["sgd", "adamw", "sgd", "adamw"],
            "latent": [None, None, None, None],
        }
    )
    names = ["data", "network", "preset", "optimizer", "latent"]
    assert telling(frame, names) == ["data", "network", "preset"]
    assert telling(frame, names[:-1], ["optimizer"]) == ["data", "network"]
