"""Schedules without torch are those of diffusers, and noise levels find their step."""

import math
from dataclasses import replace

import numpy as np
import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from hypothesis import given
from hypothesis import strategies as st

from harness.core.config import Config, parse
from harness.core.errors import UserError
from harness.models.backbones.unet import UNet
from harness.models.noise_processes.levels import NoiseLevel, Timestep
from harness.models.noise_processes.process import process_of
from harness.models.noise_processes.variance_preserving import SCHEDULES, _alphas_cumprod

SETTINGS = [
    *({"beta_schedule": kind} for kind in SCHEDULES),
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.9]},
    {"rescale_betas_zero_snr": True},
    {},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_schedule_is_that_of_diffusers(settings):
    scheduler = DDPMScheduler(**settings)
    read = process_of(dict(scheduler.config), "here").config
    np.testing.assert_allclose(_alphas_cumprod(read), scheduler.alphas_cumprod.numpy(), rtol=2e-3, atol=1e-6)
    assert np.array_equal(DDPMScheduler.from_config(read).alphas_cumprod, scheduler.alphas_cumprod)


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
)
def test_a_sampler_is_read_as_the_schedule_that_it_samples_from(kind, tmp_path):
    sampler = kind(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    config = {"_class_name": kind.__name__, **sampler.config}
    read = process_of(config, "here").config
    expected = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert np.allclose(_alphas_cumprod(read), expected.alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"_class_name": "DDMPScheduler"},
            "DDMPScheduler is not supported; did you mean DDPMScheduler? give the scheduler that the model was",
        ),
        (
            {"_class_name": ["DDPMScheduler"]},
            "_class_name = ['DDPMScheduler']: expected the name of a scheduler",
        ),
        (
            {"prediction_type": "epsilo"},
            "prediction_type = 'epsilo' is not supported; did you mean 'epsilon'",
        ),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas: expected 1000 numbers"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, "x"]}, "trained_betas: expected 2 numbers"),
        ({"beta_end": 1.5}, "beta_end = 1.5"),
    ],
    ids=range(6),
)
def test_a_scheduler_that_does_not_fit_is_refused_with_the_reason(config, words):
    with pytest.raises(UserError) as caught:
        process_of(config, "scheduler_config.json")
    assert words in str(caught.value)
    assert str(caught.value).startswith("scheduler_config.json: ")


PLAN = UNet(block_out_channels=[8]).plan(8, 1)


def test_the_published_timesteps_have_the_published_noise():
    """Sigma and signal to noise in dB of the timesteps of arXiv 2307.08702, counted from 1: after t betas."""
    sigmas = {10: 0.044, 30: 0.108, 50: 0.173, 90: 0.305, 150: 0.518, 300: 1.23, 500: 3.42}
    decibels = {10: 27.2, 30: 19.3, 50: 15.3, 90: 10.3, 150: 5.7, 300: -1.8, 500: -10.7}
    for step, sigma in sigmas.items():
        assert PLAN.sigma(step - 1) == pytest.approx(sigma, rel=0.01)
        assert PLAN.log_snr(step - 1) * 10 / math.log(10) == pytest.approx(decibels[step], abs=0.05)


@given(st.integers(0, 999), st.sampled_from(["sigma", "log_snr"]))
def test_a_steps_own_noise_level_leads_back_to_it(step, name):
    value = PLAN.sigma(step) if name == "sigma" else PLAN.log_snr(step)
    assert PLAN.step(NoiseLevel(**{name: value})) == step


@given(st.floats(-9, 9))
def test_the_step_found_is_the_nearest_of_all(wanted):
    levels = PLAN.process.log_snr_T
    found = PLAN.step(NoiseLevel(log_snr=wanted))
    assert abs(levels[found] - wanted) == min(abs(levels - wanted))
    assert found == PLAN.step(NoiseLevel(sigma=math.exp(-wanted / 2)))


def test_a_fraction_is_of_all_steps():
    wanted = [NoiseLevel(fraction=share) for share in (0.0, 0.09, 1.0)]
    assert PLAN.steps(wanted) == [0, 90, 999]
    short = UNet(block_out_channels=[8], timesteps=50).plan(8, 1)
    assert short.steps(wanted) == [0, 4, 49]


def test_where_nothing_is_left_of_the_image_there_is_no_level():
    zero = replace(PLAN, process=process_of({"num_train_timesteps": 10, "rescale_betas_zero_snr": True}))
    assert zero.sigma(9) is None
    assert zero.log_snr(9) is None
    assert zero.sigma(8) > 0
    assert zero.step(NoiseLevel(log_snr=-3.0)) < 9


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([NoiseLevel(sigma=1e9)], "sigma 1e+09 is not between 0.01 and 157"),
        ([NoiseLevel(log_snr=50.0)], "log_snr 50 is not between -10.1 and 9.21"),
        ([1000], "1000 is not between 0 and 999"),
        ([90, NoiseLevel(fraction=0.09)], "{'fraction': 0.09} is step 90, which is given twice"),
        ([5, 5], "5 is given twice"),
    ],
    ids=str,
)
def test_a_level_out_of_reach_or_given_twice_is_refused(values, words):
    with pytest.raises(UserError) as caught:
        PLAN.steps(values)
    assert words in str(caught.value)


class Steps(Config):
    timesteps: list[Timestep]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "timesteps.0: expected a timestep: an integer, or one of {fraction"),
        ({"sigma": 1.0, "fraction": 0.5}, "expected a timestep: an integer, or one of"),
        ({"sigma": -1.0}, "timesteps.0.sigma = -1.0: Input should be greater than 0"),
        ({"fraction": 2}, "timesteps.0.fraction = 2: "),
        ({"snr": 1.0}, "unknown noise level 'snr'; did you mean 'log_snr'?"),
        (1.5, "timesteps.0 = 1.5: expected a timestep: an integer"),
        (True, "timesteps.0 = true: expected a timestep: an integer"),
    ],
    ids=str,
)
def test_a_level_that_says_too_little_or_too_much_is_refused(value, words):
    with pytest.raises(UserError) as caught:
        parse(Steps, {"timesteps": [value]}, "experiment")
    assert words in str(caught.value)


def test_steps_and_levels_may_be_mixed():
    values = [5, {"sigma": 1}, {"log_snr": -2}, {"fraction": 0}]
    read = parse(Steps, {"timesteps": values}, "experiment").timesteps
    assert read == [5, NoiseLevel(sigma=1.0), NoiseLevel(log_snr=-2.0), NoiseLevel(fraction=0.0)]
