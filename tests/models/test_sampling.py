"""The steps of samplers, against those of diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from harness.models.noise_processes.process import process_of, spaced

PROCESS = process_of({"num_train_timesteps": 100})


def samples_and_noise():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 1, 4, 4, generator=draw) for _ in range(2)]


@pytest.mark.parametrize("t", [99, 40, 1, 0])
def test_an_ancestral_step_is_that_of_diffusers(t):
    z, epsilon = samples_and_noise()
    scheduler = DDPMScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(100)
    theirs = scheduler.step(epsilon, t, z, generator=torch.Generator().manual_seed(7))
    fresh = torch.randn(z.shape, generator=torch.Generator().manual_seed(7))
    ours = PROCESS.advance(z, theirs.pred_original_sample, t, t - 1 if t else None, fresh)
    torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [90, 40, 10, 0])
def test_a_ddim_step_is_that_of_diffusers(t):
    z, epsilon = samples_and_noise()
    scheduler = DDIMScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(10)
    theirs = scheduler.step(epsilon, t, z, use_clipped_model_output=True)
    ours = PROCESS.advance(z, theirs.pred_original_sample, t, t - 10 if t else None, None)
    torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=1e-4)


def test_timesteps_are_spread_from_the_last_to_the_first():
    assert spaced(1000, 1000) == list(range(999, -1, -1))
    assert spaced(1000, 2) == [999, 0]
    assert spaced(1000, 1) == [999]
    gaps = -np.diff(spaced(1000, 37))
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1
